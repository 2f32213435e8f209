package symbolize

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/heaptap/heaptap/dso"
)

// systemDebug is where distributions put debug files, below the root.
const systemDebug = "usr/lib/debug"

// maxWalked bounds the files of a folder that are looked at to find those of a build-id.
const maxWalked = 1 << 18

// finder finds files of objects.
type finder struct {
	o Options
	// byID has for each folder of o.Dirs its ELF files by build-id, once somebody asked.
	byID map[string]map[string][]string
}

func newFinder(o Options) *finder { return &finder{o, map[string]map[string][]string{}} }

// find opens the files that are known to belong to an object, the best first. The caller closes them. problem says what
// is in the way where no file has DWARF.
func (f *finder) find(key objectKey) (files []*dso.File, problem string) {
	var others []string // that are not of this build-id
	seen := map[string]bool{}
	try := func(name string) {
		real, err := filepath.EvalSymlinks(name)
		if err != nil || seen[real] {
			return
		}
		seen[real] = true
		file, err := dso.OpenFile(name)
		if err != nil {
			return
		}
		if id := hex.EncodeToString(file.BuildID()); id != key.buildID {
			if !slices.Contains(f.o.Dirs, name) { // which was given for whatever it fits
				others = append(others, name)
			}
			file.Close()
			return
		}
		files = append(files, file)
	}
	for _, name := range f.candidates(key) {
		try(name)
	}
	debug := func() bool { return slices.ContainsFunc(files, (*dso.File).HasDebug) }
	if !debug() {
		for _, name := range f.linked(files) {
			try(name)
		}
	}
	if !debug() && key.buildID != "" {
		for _, dir := range f.o.Dirs {
			for _, name := range f.index(dir)[key.buildID] {
				try(name)
			}
		}
	}
	switch {
	case len(files) > 0:
	case strings.HasPrefix(key.path, "["):
		problem = "it is no file"
	case len(others) > 0:
		problem = fmt.Sprintf("%s is another build of it", others[0])
	default:
		problem = "no file of it was found"
	}
	return files, problem
}

// candidates are the names under which an object's files may be, the best first.
func (f *finder) candidates(key objectKey) []string {
	var names []string
	inside := strings.TrimPrefix(filepath.Clean("/"+key.path), "/") // never leads out of a folder
	for _, dir := range f.o.Dirs {
		if st, err := os.Stat(dir); err == nil && st.Mode().IsRegular() {
			names = append(names, dir)
			continue
		}
		names = append(names, byBuildID(dir, key.buildID)...)
		names = append(names, byBuildID(filepath.Join(dir, systemDebug), key.buildID)...)
		names = append(names, filepath.Join(dir, inside), filepath.Join(dir, systemDebug, inside+".debug"),
			filepath.Join(dir, filepath.Base(inside)), filepath.Join(dir, filepath.Base(inside)+".debug"))
	}
	for _, dir := range f.o.Caches {
		names = append(names, byBuildID(dir, key.buildID)...)
	}
	for _, root := range f.o.Roots {
		names = append(names, filepath.Join(root, inside))
	}
	for _, root := range f.o.Roots {
		names = append(names, byBuildID(filepath.Join(root, systemDebug), key.buildID)...)
	}
	return names
}

// byBuildID are the places of a build-id's files in a folder: as debuginfod's clients and as distributions have them.
func byBuildID(dir, id string) []string {
	if id == "" {
		return nil
	}
	return []string{
		filepath.Join(dir, id, "debuginfo"), filepath.Join(dir, id, "executable"),
		filepath.Join(dir, ".build-id", id[:2], id[2:]+".debug"), filepath.Join(dir, ".build-id", id[:2], id[2:]),
		filepath.Join(dir, id[:2], id[2:]+".debug"),
	}
}

// linked are the debug files that files name, where they have the checksum that is named with them.
func (f *finder) linked(files []*dso.File) []string {
	var names []string
	for _, file := range files {
		link, crc, ok := file.DebugLink()
		if !ok {
			continue
		}
		dir := filepath.Dir(file.Path())
		places := []string{dir, filepath.Join(dir, ".debug")}
		for _, root := range slices.Concat(f.o.Dirs, f.o.Roots) {
			if inside, err := filepath.Rel(root, dir); err == nil && !strings.HasPrefix(inside, "..") {
				places = append(places, filepath.Join(root, systemDebug, inside))
			}
			places = append(places, root)
		}
		for _, place := range places {
			name := filepath.Join(place, link)
			if checksum(name) == crc {
				names = append(names, name)
			}
		}
	}
	return names
}

// checksum is the CRC-32 of an ELF file; 0, which no such file has by much chance, where there is none.
func checksum(name string) uint32 {
	file, err := dso.OpenFile(name)
	if err != nil {
		return 0
	}
	defer file.Close()
	crc, err := file.CRC()
	if err != nil {
		return 0
	}
	return crc
}

// index lists the ELF files in a folder by build-id.
func (f *finder) index(dir string) map[string][]string {
	if known, ok := f.byID[dir]; ok {
		return known
	}
	found := map[string][]string{}
	f.byID[dir] = found
	walked := 0
	// What cannot be read is as good as absent.
	_ = filepath.WalkDir(dir, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return nil
		}
		if walked++; walked > maxWalked {
			return fs.SkipAll
		}
		if !isELF(name) {
			return nil
		}
		file, err := dso.OpenFile(name)
		if err != nil {
			return nil
		}
		defer file.Close()
		if id := file.BuildID(); id != nil {
			found[hex.EncodeToString(id)] = append(found[hex.EncodeToString(id)], name)
		}
		return nil
	})
	return found
}

func isELF(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	var magic [4]byte
	n, _ := f.Read(magic[:])
	return n == len(magic) && string(magic[:]) == "\x7fELF"
}

// alternative opens the file to which dwz moved what several objects share, nil where there is none.
func (f *finder) alternative(file *dso.File) *dso.File {
	name, id, ok := file.AltLink()
	if !ok || len(id) < 2 {
		return nil
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(file.Path()), name)
	}
	inside := strings.TrimPrefix(filepath.Clean(name), "/")
	names := []string{name}
	dirs := slices.Concat(f.o.Dirs, f.o.Caches, f.o.Roots)
	for _, root := range f.o.Roots {
		dirs = append(dirs, filepath.Join(root, systemDebug))
	}
	for _, dir := range dirs {
		names = append(names, byBuildID(dir, hex.EncodeToString(id))...)
		names = append(names, filepath.Join(dir, inside), filepath.Join(dir, systemDebug, ".dwz", filepath.Base(inside)))
	}
	for _, dir := range f.o.Dirs {
		names = append(names, f.index(dir)[hex.EncodeToString(id)]...)
	}
	for _, name := range names {
		alt, err := dso.OpenFile(name)
		if err != nil {
			continue
		}
		if bytes.Equal(alt.BuildID(), id) {
			return alt
		}
		alt.Close()
	}
	return nil
}

// CacheDirs are where debuginfod's clients keep files (debuginfod-client-config(7)), given what environment variables
// say.
func CacheDirs(env func(string) string) []string {
	if dir := env("DEBUGINFOD_CACHE_PATH"); dir != "" {
		return []string{dir}
	}
	var dirs []string
	if home := env("HOME"); home != "" {
		dirs = append(dirs, filepath.Join(home, ".debuginfod_client_cache"),
			filepath.Join(home, ".cache", "debuginfod_client"))
	}
	if cache := env("XDG_CACHE_HOME"); cache != "" {
		dirs = append([]string{filepath.Join(cache, "debuginfod_client")}, dirs...)
	}
	return dirs
}
