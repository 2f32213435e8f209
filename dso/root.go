package dso

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// openIn opens an ELF file in a target's root directory, as the target would: symbolic links, absolute ones too, stay
// inside the root. It never waits for a FIFO and never leaves the root by the target's tricks.
func openIn(root, path string, source Source) (*object, error) {
	f, err := openRegular(root, path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, err)
	}
	return openObject(f, path, source)
}

func openRegular(root, path string) (*os.File, error) {
	dir, err := unix.Open(root, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(dir)
	const flags = unix.O_RDONLY | unix.O_NONBLOCK | unix.O_CLOEXEC | unix.O_NOCTTY
	const resolve = unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS
	fd, err := unix.Openat2(dir, path, &unix.OpenHow{Flags: flags, Resolve: resolve})
	if errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EPERM) { // before Linux 5.6, or a seccomp filter of that age
		fd, err = unix.Open(filepath.Join(root, path), flags, 0)
	}
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// sameDirectory reports whether two paths are one directory.
func sameDirectory(a, b string) bool {
	x, errX := os.Stat(a)
	y, errY := os.Stat(b)
	return errX == nil && errY == nil && os.SameFile(x, y)
}

func statOf(f *os.File) (*syscall.Stat_t, error) {
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	raw, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, errors.New("no inode")
	}
	return raw, nil
}
