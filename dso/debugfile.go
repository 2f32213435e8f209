package dso

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"iter"
	"os"
	"path"
	"strings"
)

const (
	debugRoot    = "/usr/lib/debug" // where distributions put debug files
	maxDebugLink = 4096 + 8         // bytes of .gnu_debuglink
	maxDebugFile = 4 << 30          // bytes of a file whose checksum is made; browsers' have 2 GB
	maxMini      = 64 << 20         // bytes of .gnu_debugdata, compressed; Fedora's are below 1 MiB
	maxMiniFile  = 1 << 28          // bytes of the same, uncompressed
)

var errCRC = errors.New("checksum is not the one in .gnu_debuglink")

// debugFiles yields the files that hold what was stripped from the module, each proved to belong to it: by build-id in
// the build-id directories, else by debug link. own is the module's own file, nil if it cannot be had. The caller uses
// a file inside the loop only; it is closed then.
func (m *Module) debugFiles(own *object) iter.Seq[*object] {
	return func(yield func(*object) bool) {
		places := m.places()
		for _, at := range places {
			o, err := m.byBuildID(at.root)
			if err == nil && !useOnce(o, yield) {
				return
			}
		}
		if own == nil {
			return
		}
		name, crc, err := own.debugLink()
		if err != nil {
			return
		}
		for _, at := range places {
			dir := path.Dir(at.path)
			for _, dir := range []string{dir, dir + "/.debug", debugRoot + dir} {
				o, err := m.byDebugLink(at.root, path.Join(dir, name), crc)
				if err == nil && !useOnce(o, yield) {
					return
				}
			}
		}
	}
}

func useOnce(o *object, yield func(*object) bool) bool {
	defer o.Close()
	return yield(o)
}

// place is a view of the file system: a root directory, and where the module is below it.
type place struct{ root, path string }

// places are where debug files are looked for: as the target sees its file system, then, as debug files of a
// container's programs are rarely inside it, as we see ours.
func (m *Module) places() []place {
	if m.process == nil {
		return nil
	}
	ours := place{"/", m.Path}
	root := m.process.Root()
	if sameDirectory(root, "/") {
		return []place{ours}
	}
	return []place{{root, m.pathInside()}, ours}
}

// pathInside is the module's path as the target sees it. The kernel names mappings as we see them, where we can: of a
// target that only changed its root directory the path begins with that.
func (m *Module) pathInside() string {
	root, err := os.Readlink(m.process.Root())
	if err != nil || root == "/" {
		return m.Path
	}
	if inside, ok := strings.CutPrefix(m.Path, root); ok && strings.HasPrefix(inside, "/") {
		return inside
	}
	return m.Path
}

// byBuildID opens /usr/lib/debug/.build-id/ab/cdef….debug.
func (m *Module) byBuildID(root string) (*object, error) {
	if len(m.BuildID) < 2 {
		return nil, errors.New("no build-id")
	}
	id := hex.EncodeToString(m.BuildID)
	o, err := openIn(root, debugRoot+"/.build-id/"+id[:2]+"/"+id[2:]+".debug", BuildIDFile)
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(o.buildID(), m.BuildID) {
		o.Close()
		return nil, fmt.Errorf("%s: %w", o.path, ErrOtherFile)
	}
	return o, nil
}

// byDebugLink opens a file that a debug link may mean. Its checksum must be the link's, and a build-id, if it has one,
// the module's.
func (m *Module) byDebugLink(root, name string, crc uint32) (*object, error) {
	o, err := openIn(root, name, DebugLink)
	if err != nil {
		return nil, err
	}
	if o.size > maxDebugFile {
		o.Close()
		return nil, fmt.Errorf("%s: %d bytes are too many for a checksum", name, o.size)
	}
	sum := crc32.NewIEEE()
	_, err = io.Copy(sum, io.NewSectionReader(o.file, 0, int64(o.size)))
	switch id := o.buildID(); {
	case err != nil:
	case sum.Sum32() != crc:
		err = errCRC
	case id != nil && m.BuildID != nil && !bytes.Equal(id, m.BuildID):
		err = ErrOtherFile
	}
	if err != nil {
		o.Close()
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return o, nil
}

// debugLink reads .gnu_debuglink: a file name without directory, padded to 4 bytes, and the CRC-32 of that file.
func (o *object) debugLink() (name string, crc uint32, err error) {
	s, ok := o.section(".gnu_debuglink")
	if !ok {
		return "", 0, errors.New("no debug link")
	}
	b, err := o.data(s, maxDebugLink)
	if err != nil {
		return "", 0, err
	}
	return parseDebugLink(b)
}

func parseDebugLink(b []byte) (name string, crc uint32, err error) {
	n := bytes.IndexByte(b, 0)
	at := (n + 4) &^ 3
	if n <= 0 || len(b) < at+4 {
		return "", 0, errors.New("debug link is cut short")
	}
	name = string(b[:n])
	if strings.Contains(name, "/") || name == "." || name == ".." {
		return "", 0, fmt.Errorf("debug link %q is not a file name", name)
	}
	return name, uint32(b[at]) | uint32(b[at+1])<<8 | uint32(b[at+2])<<16 | uint32(b[at+3])<<24, nil
}

// mini opens the object inside .gnu_debugdata, which holds the symbol table of functions without the dynamic ones.
func (o *object) mini() (*object, error) {
	s, ok := o.section(".gnu_debugdata")
	if !ok {
		return nil, errors.New("no .gnu_debugdata")
	}
	b, err := o.data(s, maxMini)
	if err != nil {
		return nil, err
	}
	if b, err = inflate(b, maxMiniFile); err != nil {
		return nil, fmt.Errorf("section .gnu_debugdata: %w", err)
	}
	in, err := readObject(bytes.NewReader(b), uint64(len(b)))
	if err != nil {
		return nil, fmt.Errorf("section .gnu_debugdata: %w", err)
	}
	in.path, in.source = o.path, MiniDebugInfo
	return in, nil
}
