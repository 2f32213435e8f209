package heap

import (
	"errors"
	"strings"
)

// The file form of a snapshot is profile.proto of github.com/google/pprof, gzipped. heaptap has its own encoder
// (write.go) and decoder (read.go) of that format, since a profile.Profile spells out each record's stack as pointers
// and its labels as maps: 200,000 records of 30 frames took 0.58 s and 640 MB of garbage to encode and 0.24 s and
// 440 MB to decode, and a deep recursion takes many times that. Here a stack never exists but in the trie. The tests
// hold both against the profile package.

// Field numbers of profile.proto's messages that heaptap writes and reads.
const (
	profileSampleType    = 1
	profileSample        = 2
	profileMapping       = 3
	profileLocation      = 4
	profileFunction      = 5
	profileString        = 6
	profileTimeNanos     = 9
	profileDurationNanos = 10
	profilePeriodType    = 11
	profilePeriod        = 12
	profileComment       = 13
	profileDefaultType   = 14

	valueTypeType = 1
	valueTypeUnit = 2

	sampleLocation = 1
	sampleValue    = 2
	sampleLabel    = 3

	labelKey  = 1
	labelStr  = 2
	labelNum  = 3
	labelUnit = 4

	mappingID             = 1
	mappingStart          = 2
	mappingLimit          = 3
	mappingOffset         = 4
	mappingFile           = 5
	mappingBuildID        = 6
	mappingHasFunctions   = 7
	mappingHasFilenames   = 8
	mappingHasLineNumbers = 9

	locationID      = 1
	locationMapping = 2
	locationAddress = 3
	locationLine    = 4

	lineFunction = 1
	lineLine     = 2

	functionID        = 1
	functionName      = 2
	functionFile      = 4
	functionStartLine = 5
)

// Wire types of protocol buffers.
const (
	wireVarint = 0
	wire64     = 1
	wireBytes  = 2
	wire32     = 5
)

// Names in the file. Labels and sample types have the names of Go's heap profile and of the tools around it.
const (
	keyType    = "type"
	keyDomain  = "domain"
	keyThread  = "thread"
	keyProcess = "process"
	keyAge     = "age"
	keySize    = "bytes"
	unitAge    = "seconds"
	unitBytes  = "bytes"
	unitCount  = "count"
	periodType = "space"

	// noStack is the function that stands in the file for an absent stack: pprof leaves samples without any location
	// out of its reports.
	noStack = "[no Python stack]"

	// mappingName is the file of the mapping of Python code. It exists so that pprof sees that there is nothing to
	// symbolise. Machine code has a mapping for each ELF object, without start, limit and offset, which says that
	// addresses are the object's own (pprof's internal/elfexec.GetBase: "a fake mapping that spans the entire address
	// space. Assume that the address has already been adjusted").
	mappingName = "python"

	// exactPeriod is the period of a profile in which every byte was sampled, as in a Go program with MemProfileRate 1.
	exactPeriod = 1

	// commentSeparator stands between key and value of an Info in its comment; foreignComment is the key of comments
	// that are not of this form.
	commentSeparator = ": "
	foreignComment   = "comment"
)

var metricNames = [NumMetrics]struct{ name, unit string }{
	InuseBytes:  {"inuse_space", unitBytes},
	InuseBlocks: {"inuse_objects", unitCount},
	AllocBytes:  {"alloc_space", unitBytes},
	AllocBlocks: {"alloc_objects", unitCount},
	PeakBytes:   {"peak_space", unitBytes},
	PeakBlocks:  {"peak_objects", unitCount},
	TempBlocks:  {"temporary_objects", unitCount},
}

// columnOrder is the order of sample types in the file: that of Go's heap profile, in which tools that know no default
// type find what is in use last. The first three are there only where something was counted.
var columnOrder = [NumMetrics]Metric{TempBlocks, PeakBlocks, PeakBytes, AllocBlocks, AllocBytes, InuseBlocks, InuseBytes}

func (kv KeyValue) check() error {
	if kv.Key == "" || strings.Contains(kv.Key, commentSeparator) || strings.Contains(kv.Key, "\n") {
		return errors.New("a key is not empty and has neither a newline nor \": \"")
	}
	return nil
}
