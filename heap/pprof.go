package heap

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/google/pprof/profile"
)

// Names in the file. Keys of labels and names of sample types are what Go's heap profile and the tools that read it use.
const (
	labelType   = "type"
	labelDomain = "domain"
	labelThread = "thread"
	labelAge    = "age"
	unitAge     = "seconds"

	// noStack is the function that stands in the file for an absent stack: pprof's tools ignore samples without one.
	noStack = "[no Python stack]"
)

var metricNames = [NumMetrics]struct{ name, unit string }{
	InuseBytes:  {"inuse_space", "bytes"},
	InuseBlocks: {"inuse_objects", "count"},
	AllocBytes:  {"alloc_space", "bytes"},
	AllocBlocks: {"alloc_objects", "count"},
	PeakBytes:   {"peak_space", "bytes"},
	PeakBlocks:  {"peak_objects", "count"},
}

// commentSeparator stands between key and value in a comment of the file.
const commentSeparator = ": "

func (kv KeyValue) check() error {
	if kv.Key == "" || strings.Contains(kv.Key, commentSeparator) || strings.Contains(kv.Key, "\n") {
		return errors.New("a key is not empty and has no newline and no \": \"")
	}
	return nil
}

// Write writes the snapshot as a gzipped pprof profile in the shape of Go's heap profile.
func (s *Snapshot) Write(w io.Writer) error {
	return errors.New("write snapshot: not built yet")
}

// Read reads a snapshot.
func Read(r io.Reader) (*Snapshot, error) {
	_ = profile.Profile{}
	return nil, fmt.Errorf("read snapshot: not built yet")
}
