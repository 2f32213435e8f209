package heap

// FilterSpec is a filter as people write it: what the command line's flags hold. Each list is one flag; its values are
// alternatives, save those that begin with "!", none of which may hold. Different flags must all hold.
type FilterSpec struct {
	Type, Module, File, Func, Thread, Domain []string

	MinSize, MaxSize []string // "512", "1KiB", "2M"
	Older, Newer     []string // "90s", "5m", "2h", "1d"

	Own   bool     // only code that is neither of the standard library nor in site-packages
	Where []string // expressions; all must hold
}

// Filter decides which blocks somebody wants to see. It is immutable and may be shared. Make one with [ParseFilter].
type Filter struct {
	source string
}

// ParseFilter compiles a filter. Nil stands for a spec that lets everything pass. Errors are *[FilterError]s: what is
// not in the language, and what no block can be (age > 5m && age < 1m).
func ParseFilter(spec FilterSpec) (*Filter, error) { return &Filter{}, nil }

// String is the filter as one expression that [FilterSpec].Where takes.
func (f *Filter) String() string { return f.source }

// NeedsType tells whether the answer depends on blocks' types, which cost something to find out.
func (f *Filter) NeedsType() bool { return false }

// Block is one live block as a filter sees it. Stack and labels are indices in the tables of the snapshot that the
// [Matcher] was made for, as in a [Record].
type Block struct {
	Stack                int32
	Domain, Thread, Type int32
	Age                  int32 // seconds, exactly; UnknownAge
	Size                 uint64
}

// Matcher is a filter at work on the blocks of one snapshot. It remembers its verdict on each stack and label, so that
// asking about a block is a few table lookups. It is for one goroutine.
type Matcher struct{}

// On returns a matcher for blocks of s, whose tables may still grow (as a [Builder] lets them).
func (f *Filter) On(s *Snapshot) *Matcher { return &Matcher{} }

// Block tells whether the block passes. Conditions on `blocks`, which is a number of blocks, are left to
// [Filter.Finish].
func (m *Matcher) Block(b *Block) bool { return true }

// Finish applies to a snapshot that holds only blocks that passed [Matcher.Block] what could not be told of one block
// alone, drops stacks and texts that nothing refers to any more, and notes the filter in Info.
func (f *Filter) Finish(s *Snapshot) (*Snapshot, error) { return s, nil }

// Apply returns the part of a snapshot that passes, judged by records: what the labels of a record leave open (an age
// within its bucket, a size between the record's smallest and largest) is left out, and Info says how much that is.
// Where nothing passes, the error is a *[NoMatchError].
func (f *Filter) Apply(s *Snapshot) (*Snapshot, error) { return s, nil }

// FilterError says what is wrong with a filter, and where.
type FilterError struct {
	Flag   string // the flag that holds Source: "where", "min-size", ...
	Source string // what was written there
	Offset int    // in Source, bytes
	Reason string
}

// Error is one line; Source and Offset allow to point at the place.
func (e *FilterError) Error() string { return "--" + e.Flag + ": " + e.Reason }

// NoMatchError says that a filter lets nothing of a snapshot pass, and what there is.
type NoMatchError struct {
	Filter string
	There  []string // what was there, nearest to what was asked for first
}

// Error is one line, without There.
func (e *NoMatchError) Error() string { return "nothing matches " + e.Filter }
