package heap

// Keys of the facts ([Snapshot].Info) that say how much of the process was in memory when the snapshot was taken, and what
// that was made of. Their values are "1234 bytes".
const (
	InfoRSS = "rss" // all of it: the sum of the others, where they are there

	InfoTracked     = "rss, tracked"       // live blocks
	InfoBeside      = "rss, beside it"     // the rest of the memory that tracked blocks are or were in
	InfoFilesClean  = "rss, files"         // code and constants
	InfoFilesDirty  = "rss, files written" // variables of modules
	InfoStacks      = "rss, stacks"
	InfoShared      = "rss, shared memory"
	InfoHeaptap     = "heaptap's own"
	InfoUnexplained = "rss, not explained"
)
