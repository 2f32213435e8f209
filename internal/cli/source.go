package cli

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/heaptap/heaptap/report"
)

// maxSourceBytes is the size of the largest file that is taken for source.
const maxSourceBytes = 8 << 20

// sourceSuffixes are those of files that people write Python in. Names come from the profiled program, and a report is
// passed on: no other file of the reader's may get into it.
var sourceSuffixes = [...]string{".py", ".pyw", ".pyx", ".pxd", ".pxi", ".pyi"}

// sourceFinder finds source files here or below a folder.
type sourceFinder struct {
	root string // where the program's files are, too; "" for nowhere else
}

// find is a report.Sources. Below the root a file may have its whole path, as in another machine's file system, or any
// end of it, as in a checkout; the longest is taken.
func (f sourceFinder) find(name string) (report.SourceFile, error) {
	if name == "" || strings.ContainsAny(name[:1], "<[") {
		return report.SourceFile{}, errors.New("not from a file")
	}
	if strings.ContainsRune(name, 0) {
		return report.SourceFile{}, errors.New("not the name of a file")
	}
	if !slices.Contains(sourceSuffixes[:], filepath.Ext(name)) {
		return report.SourceFile{}, errors.New("not called a Python source file")
	}
	clean := filepath.Clean("/" + name) // without .. above the root
	if f.root != "" {
		for rest := clean; rest != "" && rest != "/"; rest = afterFirst(rest) {
			path := filepath.Join(f.root, rest)
			source, err := readSource(path)
			if !errors.Is(err, fs.ErrNotExist) {
				source.Path = path
				return source, err
			}
		}
	}
	if !filepath.IsAbs(name) {
		return report.SourceFile{}, errors.New("its name is relative to a folder that is not known (see --source-root)")
	}
	return readSource(clean)
}

// afterFirst is a path without its first folder, "" where there is none.
func afterFirst(path string) string {
	if i := strings.IndexByte(path[1:], '/'); i >= 0 {
		return path[1+i:]
	}
	return ""
}

// readSource reads a regular file. What is not there is fs.ErrNotExist, folders on its way that are files included.
func readSource(path string) (report.SourceFile, error) {
	st, err := os.Stat(path)
	if err != nil {
		if errors.Is(err, unix.ENOTDIR) {
			err = fs.ErrNotExist
		}
		return report.SourceFile{}, causeOf(err)
	}
	switch {
	case !st.Mode().IsRegular():
		return report.SourceFile{}, errors.New("not a regular file")
	case st.Size() > maxSourceBytes:
		return report.SourceFile{}, fmt.Errorf("%s is too large for source", sizeText(uint64(st.Size())))
	}
	file, err := os.Open(path)
	if err != nil {
		return report.SourceFile{}, causeOf(err)
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxSourceBytes))
	if err != nil {
		return report.SourceFile{}, causeOf(err)
	}
	return report.SourceFile{Text: text, Modified: st.ModTime()}, nil
}

// causeOf is what is wrong with a file, without its name, which the reader has seen.
func causeOf(err error) error {
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w here", fs.ErrNotExist)
	}
	return err
}
