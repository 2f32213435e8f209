package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
)

// output runs write on what path names and returns the bytes written. "-" is standard output. A file appears under its
// name only when it is whole and on the disk: until then it has a temporary name beside it, and after a failure nothing
// is left. What is there and is no regular file (a pipe, /dev/null) is written to as it is.
func (a *app) output(path string, write func(io.Writer) error) (int64, error) {
	if path == "-" {
		return pour("standard output", a.Stdout, write)
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real // replace what the link points to, not the link
	}
	if st, err := os.Stat(path); err == nil && !st.Mode().IsRegular() {
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			return 0, &outputError{path, err}
		}
		n, err := pour(path, f, write)
		if cerr := f.Close(); err == nil && cerr != nil {
			err = &outputError{path, cerr}
		}
		return n, err
	}
	return writeWhole(path, write)
}

// writeWhole makes the temporary file before it calls write, so that a folder that cannot be written to is known
// before anything was done to a process.
func writeWhole(path string, write func(io.Writer) error) (n int64, err error) {
	f, err := createBeside(path)
	if err != nil {
		return 0, &outputError{path, err}
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if n, err = pour(path, f, write); err != nil {
		return 0, err
	}
	for _, step := range []func() error{f.Sync, f.Close, func() error { return os.Rename(f.Name(), path) }} {
		if err = step(); err != nil {
			return 0, &outputError{path, err}
		}
	}
	return n, nil
}

// createBeside makes a hidden file in path's folder, with the permissions that path would have got.
func createBeside(path string) (*os.File, error) {
	for {
		name := filepath.Join(filepath.Dir(path), fmt.Sprintf(".%s.%08x", filepath.Base(path), rand.Uint32()))
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if !errors.Is(err, fs.ErrExist) {
			return f, err
		}
	}
}

// pour buffers and counts what write writes to w, and tells w's failures from those of write itself.
func pour(name string, w io.Writer, write func(io.Writer) error) (int64, error) {
	sink := &sink{w: w}
	b := bufio.NewWriterSize(sink, 1<<16)
	err := write(b)
	if err == nil {
		err = b.Flush()
	}
	if sink.err != nil {
		err = &outputError{name, sink.err}
	}
	return sink.n, err
}

// sink remembers how much went through it and the first failure.
type sink struct {
	w   io.Writer
	n   int64
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.n += int64(n)
	if err != nil && s.err == nil {
		s.err = err
	}
	return n, err
}
