package cpython

import (
	"reflect"
	"testing"
)

// Every supported release has a layout whose necessary fields are known, and no other release has one.
func TestLayoutsAreComplete(t *testing.T) {
	optional := map[string]bool{"Interpreter.ID": true, "Thread.NativeID": true, "Thread.ID": true,
		"Frame.TLBCIndex": true, "Frame.Owner": true, "Frame.EntryFlag": true,
		"Code.Qualname": true, "Code.FirstTraceable": true, "Code.Adaptive": true,
		"Dict.KeysSize": true, "Dict.KeysLog2Index": true, "Dict.KeysKind": true, "Owner.ByteArray": true,
		"Thread.Frame": true, "Thread.CFrame": true, "Thread.CFrameCurrent": true}
	for minor := uint8(6); minor <= 15; minor++ {
		for micro := uint8(0); micro < 30; micro++ {
			v := release(3, minor, micro)
			l, ok := layoutFor(v)
			if !ok {
				t.Errorf("%v has no layout", v)
				continue
			}
			value := reflect.ValueOf(l)
			for i := range value.NumField() {
				group := value.Type().Field(i)
				if group.Type.Kind() != reflect.Struct {
					continue
				}
				for j := range group.Type.NumField() {
					o, isOffset := value.Field(i).Field(j).Interface().(Offset)
					name := group.Name + "." + group.Type.Field(j).Name
					inRuntime := group.Name == "Runtime" && (minor < 7 || j > 4 && minor < 12)
					if isOffset && !o.Known && !optional[name] && !inRuntime {
						t.Errorf("%v: %s is absent", v, name)
					}
				}
			}
			if l.Thread.Frame.Known == l.Thread.CFrame.Known || l.Thread.CFrame.Known != l.Thread.CFrameCurrent.Known {
				t.Errorf("%v: %+v", v, l.Thread)
			}
			if l.Dict.KeysSize.Known == l.Dict.KeysLog2Index.Known || l.Dict.KeysLog2Index.Known != l.Dict.KeysKind.Known ||
				l.Owner.ByteArray.Known != (minor <= 14) {
				t.Errorf("%v: %+v %+v", v, l.Dict, l.Owner)
			}
			if l.Frame.Entry < EntryEach || l.Frame.EntryFlag.Known != (l.Frame.Entry == EntryFlag) {
				t.Errorf("%v: %+v", v, l.Frame)
			}
			if hasOwner := minor >= 11; l.Frame.Owner.Known != hasOwner || l.Code.Adaptive.Known != hasOwner ||
				(l.Frame.InstrKind == InstrPointer) != hasOwner {
				t.Errorf("%v: %+v %+v", v, l.Frame, l.Code)
			}
		}
	}
	for _, v := range []Version{release(2, 7, 18), release(3, 5, 10), release(3, 16, 0), release(4, 0, 0), {}} {
		if _, ok := layoutFor(v); ok {
			t.Errorf("%v has a layout", v)
		}
	}
}

func TestCompared(t *testing.T) {
	for v, want := range map[Version]bool{
		release(3, 6, 0): true, release(3, 11, 2): true, release(3, 11, 11): false, release(3, 12, 7): false,
		release(3, 13, 1): false, release(3, 13, 18): true, release(3, 15, 2): true, release(3, 15, 3): false,
		{Major: 3, Minor: 15, Level: Candidate, Serial: 1}: false,
	} {
		if got := compared(v); got != want {
			t.Errorf("%v: compared %v, want %v", v, got, want)
		}
	}
}

func TestRowForMicro(t *testing.T) {
	for v, align := range map[Version]uint32{release(3, 7, 3): 8, release(3, 7, 4): 16, release(3, 7, 99): 16,
		release(3, 6, 15): 8, {Major: 3, Minor: 14, Level: Candidate, Serial: 2}: 16} {
		l, ok := layoutFor(v)
		if !ok || l.BlockAlign != align {
			t.Errorf("%v: alignment %d, %v; want %d", v, l.BlockAlign, ok, align)
		}
	}
}

func TestVersion(t *testing.T) {
	for hex, want := range map[uint32]string{0x030b02f0: "3.11.2", 0x030e00c1: "3.14.0rc1", 0x030f00a7: "3.15.0a7",
		0x030d00b2: "3.13.0b2", 0x02071200 | 0xf0: "2.7.18"} {
		if got := versionHex(hex).String(); got != want {
			t.Errorf("%#x: %s, want %s", hex, got, want)
		}
	}
	for text, want := range map[string]string{
		"3.9.2 (default, Feb 28 2021, 17:03:44) \n[GCC 10.2.1]\x00": "3.9.2",
		"x\x00\x003.6.15 (default, Oct 2026)\x00":                   "3.6.15",
		"\x003.13.0rc2+ experimental free-threading build (main)":   "3.13.0rc2",
		"\x002.7.18 (default)":                                      "2.7.18",
		"3.9.2\x00(":                                                "",
		"13.9.2 (":                                                  "",
		"3.9 (":                                                     "",
		"x3.9.2 (a":                                                 "",
		"\x003.999.1 (":                                             "",
		"\x003.9.999 (":                                             "",
	} {
		got := ""
		if v, ok := findVersionText([]byte(text)); ok {
			got = v.String()
		}
		if got != want {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}
