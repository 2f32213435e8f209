package cpython

import (
	"bytes"
	"cmp"
	"fmt"
	"regexp"
	"strconv"
)

// Version is an exact CPython version, as PY_VERSION_HEX encodes it (Include/patchlevel.h).
type Version struct {
	Major, Minor, Micro uint8
	Level               Level
	Serial              uint8
}

// Level is the release level of a version.
type Level uint8

// The release levels, with CPython's own values.
const (
	Alpha     Level = 0xA
	Beta      Level = 0xB
	Candidate Level = 0xC
	Final     Level = 0xF
)

// release is the final release major.minor.micro.
func release(major, minor, micro uint8) Version {
	return Version{Major: major, Minor: minor, Micro: micro, Level: Final}
}

// String is the version as Python prints it: "3.11.2", "3.14.0rc1".
func (v Version) String() string {
	s := fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro)
	switch v.Level {
	case Alpha:
		return fmt.Sprintf("%sa%d", s, v.Serial)
	case Beta:
		return fmt.Sprintf("%sb%d", s, v.Serial)
	case Candidate:
		return fmt.Sprintf("%src%d", s, v.Serial)
	}
	return s
}

// Compare orders versions: negative if v is before w.
func (v Version) Compare(w Version) int {
	return cmp.Or(cmp.Compare(v.Major, w.Major), cmp.Compare(v.Minor, w.Minor), cmp.Compare(v.Micro, w.Micro),
		cmp.Compare(v.Level, w.Level), cmp.Compare(v.Serial, w.Serial))
}

// sameMinor reports whether v and w are of one feature release.
func (v Version) sameMinor(w Version) bool { return v.Major == w.Major && v.Minor == w.Minor }

// atLeast reports whether v is of the feature release major.minor or a later one.
func (v Version) atLeast(major, minor uint8) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// versionHex decodes PY_VERSION_HEX.
func versionHex(h uint32) Version {
	return Version{Major: uint8(h >> 24), Minor: uint8(h >> 16), Micro: uint8(h >> 8), Level: Level(h >> 4 & 0xf),
		Serial: uint8(h & 0xf)}
}

// versionText is the beginning of what Py_GetVersion returns: "3.9.2 (default, Feb 28 2021, …". A free-threaded build
// puts words before the parenthesis.
var versionText = regexp.MustCompile(`^([23])\.(\d{1,2})\.(\d{1,3})(?:(a|b|rc|c)(\d{1,2}))?\+? [^\x00]{0,60}\(`)

const maxVersionText = 128 // bytes of a version text that are looked at

// findVersionText finds a version text among b: it starts b, or follows a NUL.
func findVersionText(b []byte) (Version, bool) {
	if v, ok := parseVersionText(b); ok {
		return v, true
	}
	for _, start := range []string{"\x003.", "\x002."} {
		for rest := b; ; {
			i := bytes.Index(rest, []byte(start))
			if i < 0 {
				break
			}
			rest = rest[i+1:]
			if v, ok := parseVersionText(rest); ok {
				return v, true
			}
		}
	}
	return Version{}, false
}

func parseVersionText(b []byte) (Version, bool) {
	m := versionText.FindSubmatch(b[:min(len(b), maxVersionText)])
	if m == nil {
		return Version{}, false
	}
	ok := true
	num := func(i int) uint8 {
		n, err := strconv.ParseUint(string(m[i]), 10, 8)
		ok = ok && err == nil
		return uint8(n)
	}
	v := Version{Major: num(1), Minor: num(2), Micro: num(3), Level: Final}
	switch string(m[4]) {
	case "a":
		v.Level = Alpha
	case "b":
		v.Level = Beta
	case "c", "rc":
		v.Level = Candidate
	}
	if m[5] != nil {
		v.Serial = num(5)
	}
	return v, ok
}
