package dso

import (
	"bytes"
	"compress/zlib"
	"debug/elf"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// section is a section of an ELF file to be made; its size may be said to be another than that of its data.
type section struct {
	name  string
	kind  elf.SectionType
	flags elf.SectionFlag
	data  []byte
	size  uint64 // 0: as the data are
	link  uint32
}

func plain(name string, b []byte) section {
	return section{name: name, kind: elf.SHT_PROGBITS, data: b}
}

func compact(name string, b []byte) section {
	return section{name: name, kind: elf.SHT_PROGBITS, flags: elf.SHF_COMPRESSED, data: b}
}

func symbols(b []byte, names uint32) section {
	return section{name: ".symtab", kind: elf.SHT_SYMTAB, data: b, link: names}
}

// makeFile makes an ELF file of sections; section 1 is the first of them.
func makeFile(sections ...section) []byte {
	sections = append(sections, section{name: ".shstrtab", kind: elf.SHT_STRTAB})
	names := []byte{0}
	var body []byte
	headers := []elf.Section64{{}}
	for i := range sections {
		s := &sections[i]
		h := elf.Section64{Name: uint32(len(names)), Type: uint32(s.kind), Flags: uint64(s.flags), Link: s.link,
			Addralign: 4, Off: 64 + uint64(len(body)), Size: uint64(len(s.data))}
		names = append(append(names, s.name...), 0)
		if i == len(sections)-1 {
			s.data, h.Size = names, uint64(len(names))
		}
		if s.size != 0 {
			h.Size = s.size
		}
		body = append(body, s.data...)
		headers = append(headers, h)
	}
	h := elf.Header64{Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64), Shoff: 64 + uint64(len(body)),
		Shentsize: 64, Shnum: uint16(len(headers)), Shstrndx: uint16(len(headers) - 1), Phentsize: 56}
	copy(h.Ident[:], elf.ELFMAG)
	h.Ident[elf.EI_CLASS], h.Ident[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	var out bytes.Buffer
	for _, v := range []any{h, body, headers} {
		if err := binary.Write(&out, binary.LittleEndian, v); err != nil {
			panic(err)
		}
	}
	return out.Bytes()
}

// compressed makes the data of an SHF_COMPRESSED section that claims a size.
func compressed(kind elf.CompressionType, size uint64, packed []byte) []byte {
	h := make([]byte, 24)
	binary.LittleEndian.PutUint32(h, uint32(kind))
	binary.LittleEndian.PutUint64(h[8:], size)
	return append(h, packed...)
}

func packZlib(b []byte) []byte {
	var out bytes.Buffer
	w := zlib.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		panic(err)
	}
	if err := w.Close(); err != nil {
		panic(err)
	}
	return out.Bytes()
}

// symtabFile makes a file with everything that is read of one.
func symtabFile(t testing.TB) []byte {
	t.Helper()
	sym := elf.Sym64{Name: 1, Info: elf.ST_INFO(elf.STB_GLOBAL, elf.STT_FUNC), Shndx: 1, Value: 0x100, Size: 8}
	var syms bytes.Buffer
	if err := binary.Write(&syms, binary.LittleEndian, []elf.Sym64{{}, sym}); err != nil {
		t.Fatal(err)
	}
	names := []byte("\x00_Z5alphai\x00")
	inner := makeFile(symbols(syms.Bytes(), 2),
		section{name: ".strtab", kind: elf.SHT_STRTAB, data: names})
	var packed bytes.Buffer
	w, err := xz.WriterConfig{DictCap: 1 << 16, BufSize: 1 << 16}.NewWriter(&packed)
	if err == nil {
		_, err = w.Write(inner)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	return makeFile(
		symbols(syms.Bytes(), 2),
		section{name: ".strtab", kind: elf.SHT_STRTAB, data: names},
		section{name: ".note.gnu.build-id", kind: elf.SHT_NOTE,
			data: []byte("\x04\x00\x00\x00\x04\x00\x00\x00\x03\x00\x00\x00GNU\x00\x01\x02\x03\x04")},
		plain(".gnu_debuglink", []byte("a.debug\x00\x01\x02\x03\x04")),
		plain(".gnu_debugdata", packed.Bytes()),
		section{name: ".debug_abbrev", kind: elf.SHT_PROGBITS, flags: elf.SHF_COMPRESSED,
			data: compressed(elf.COMPRESS_ZLIB, 6, packZlib([]byte{1, 0x11, 0, 0, 0, 0}))},
		plain(".debug_info", []byte{8, 0, 0, 0, 4, 0, 0, 0, 0, 0, 8, 1}))
}

func TestSyntheticFile(t *testing.T) {
	b := symtabFile(t)
	o, err := readObject(bytes.NewReader(b), uint64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	if id := o.buildID(); string(id) != "\x01\x02\x03\x04" {
		t.Errorf("build-id %x", id)
	}
	if name, crc, err := o.debugLink(); name != "a.debug" || crc != 0x04030201 || err != nil {
		t.Errorf("debug link %q %#x, %v", name, crc, err)
	}
	mini, err := o.mini()
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range []*object{o, mini} {
		table, err := o.symtab()
		if err != nil || len(table.find("_Z5alphai")) != 1 || len(table.findSource(parseSource("alpha(int)"))) != 1 {
			t.Errorf("symbol table %+v, %v", table, err)
		}
	}
	if d, err := o.dwarf(); err != nil || d == nil {
		t.Errorf("DWARF: %v", err)
	}
}

// What a file claims beyond its means is an error, and costs no memory.
func TestHostileFiles(t *testing.T) {
	zeros := make([]byte, 64<<20)
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	bombZstd := encoder.EncodeAll(zeros, nil)
	bombZlib := packZlib(zeros)
	var bombXZ bytes.Buffer
	w, err := xz.NewWriter(&bombXZ)
	if err == nil {
		_, err = w.Write(zeros)
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	clear(zeros)
	hugeDictionary := packXZ(t, []byte("little"))
	block := hugeDictionary[12:] // of 12 bytes: size, flags, filter and its properties, the dictionary at 4, checksum
	block[4] = 39                // 3 GiB
	binary.LittleEndian.PutUint32(block[8:], crc32.ChecksumIEEE(block[:8]))

	debug := func(kind elf.CompressionType, size uint64, b []byte) section {
		return compact(".debug_info", compressed(kind, size, b))
	}
	mini := func(b []byte) section { return plain(".gnu_debugdata", b) }
	read := map[string]func(*object) error{
		"debug": func(o *object) error { _, err := o.dwarf(); return err },
		"mini":  func(o *object) error { _, err := o.mini(); return err },
		"syms":  func(o *object) error { _, err := o.symtab(); return err },
		"link":  func(o *object) error { _, _, err := o.debugLink(); return err },
	}
	for name, c := range map[string]struct {
		read string
		file []byte
	}{
		"zlib bomb":           {"debug", makeFile(debug(elf.COMPRESS_ZLIB, 64<<20, bombZlib))},
		"zstd bomb":           {"debug", makeFile(debug(elf.COMPRESS_ZSTD, 64<<20, bombZstd))},
		"says little, is big": {"debug", makeFile(debug(elf.COMPRESS_ZSTD, 100, bombZstd))},
		"says big, is little": {"debug", makeFile(debug(elf.COMPRESS_ZLIB, 2000, packZlib([]byte("x"))))},
		"says 2^62":           {"debug", makeFile(debug(elf.COMPRESS_ZLIB, 1<<62, packZlib([]byte("x"))))},
		"unknown compression": {"debug", makeFile(debug(77, 1, []byte("x")))},
		"no Chdr":             {"debug", makeFile(compact(".debug_info", []byte("x")))},
		"zdebug without ZLIB": {"debug", makeFile(plain(".zdebug_info", []byte("ZLIBZLIBZLIBZ")))},
		"not zlib":            {"debug", makeFile(debug(elf.COMPRESS_ZLIB, 10, []byte("0123456789")))},
		"not zstd":            {"debug", makeFile(debug(elf.COMPRESS_ZSTD, 10, []byte("0123456789")))},
		"section of 2^60":     {"debug", makeFile(section{name: ".debug_info", kind: elf.SHT_PROGBITS, size: 1 << 60})},
		"section beyond file": {"debug", makeFile(section{name: ".debug_info", kind: elf.SHT_PROGBITS, size: 1 << 20})},
		"xz bomb":             {"mini", makeFile(mini(bombXZ.Bytes()))},
		"xz, huge dictionary": {"mini", makeFile(mini(hugeDictionary))},
		"xz, cut short":       {"mini", makeFile(mini(bombXZ.Bytes()[:100]))},
		"zstd bomb in mini":   {"mini", makeFile(mini(bombZstd))},
		"neither xz nor zstd": {"mini", makeFile(mini([]byte("BZh91AY&SY")))},
		"not ELF inside":      {"mini", makeFile(mini(packZstd(t, []byte("hello"))))},
		"symbols of 2^40":     {"syms", makeFile(section{name: ".symtab", kind: elf.SHT_SYMTAB, size: 1 << 40, link: 1})},
		"symbols, no names":   {"syms", makeFile(symbols(make([]byte, 48), 99))},
		"names are no names":  {"syms", makeFile(symbols(make([]byte, 48), 1))},
		"link without end":    {"link", makeFile(plain(".gnu_debuglink", []byte("abc")))},
		"link without crc":    {"link", makeFile(plain(".gnu_debuglink", []byte("abc\x00")))},
		"link elsewhere":      {"link", makeFile(plain(".gnu_debuglink", []byte("../../etc/x\x00\x01\x02\x03\x04")))},
		"huge link":           {"link", makeFile(plain(".gnu_debuglink", bytes.Repeat([]byte("a"), 9000)))},
	} {
		t.Run(name, func(t *testing.T) {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			o, err := readObject(bytes.NewReader(c.file), uint64(len(c.file)))
			if err == nil {
				err = read[c.read](o)
			}
			runtime.ReadMemStats(&after)
			if err == nil || errors.Is(err, ErrNoDebug) {
				t.Errorf("no error: %v", err)
			}
			// The decoders' own tables are about 10 MiB.
			if used := after.TotalAlloc - before.TotalAlloc; used > 24<<20 {
				t.Errorf("%d bytes allocated", used)
			}
		})
	}
}

// Headers that claim what is not there.
func TestHostileHeaders(t *testing.T) {
	for name, change := range map[string]func(h *elf.Header64){
		"no magic":             func(h *elf.Header64) { h.Ident[0] = 0 },
		"32-bit":               func(h *elf.Header64) { h.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS32) },
		"big-endian":           func(h *elf.Header64) { h.Ident[elf.EI_DATA] = byte(elf.ELFDATA2MSB) },
		"sections elsewhere":   func(h *elf.Header64) { h.Shoff = 1 << 62 },
		"sections wrap":        func(h *elf.Header64) { h.Shoff = ^uint64(0) - 63 },
		"many sections":        func(h *elf.Header64) { h.Shnum = 0xfeff },
		"odd section headers":  func(h *elf.Header64) { h.Shentsize = 63 },
		"sections in the 0th":  func(h *elf.Header64) { h.Shnum = 0 },
		"programs elsewhere":   func(h *elf.Header64) { h.Phnum, h.Phoff = 3, 1<<63 },
		"many program headers": func(h *elf.Header64) { h.Phnum = 0xffff },
	} {
		b := symtabFile(t)
		var h elf.Header64
		if err := binary.Read(bytes.NewReader(b), binary.LittleEndian, &h); err != nil {
			t.Fatal(err)
		}
		change(&h)
		var out bytes.Buffer
		if err := binary.Write(&out, binary.LittleEndian, h); err != nil {
			t.Fatal(err)
		}
		copy(b, out.Bytes())
		if o, err := readObject(bytes.NewReader(b), uint64(len(b))); err == nil {
			t.Errorf("%s: %+v", name, o)
		}
	}
	for _, n := range []int{0, 1, 63} {
		if _, err := readObject(bytes.NewReader(make([]byte, n)), uint64(n)); err == nil {
			t.Errorf("a file of %d bytes", n)
		}
	}
}

// A mangled name that doubles with each letter is told short or not at all, and soon.
func TestHostileName(t *testing.T) {
	name := "_Z1f1A"
	for i := range 60 {
		ref := "S" + strings.ToUpper(string("0123456789abcdefghijklmnopqrstuvwxyz"[i%36])) + "_"
		name += "1BI" + ref + ref + "E"
	}
	if s := Demangle(name); len(s) > 1<<maxDemangled {
		t.Errorf("%d bytes", len(s))
	}
	_ = parseSource("f").names(name)
}

func FuzzFile(f *testing.F) {
	f.Add(symtabFile(f))
	f.Fuzz(func(t *testing.T, b []byte) {
		o, err := readObject(bytes.NewReader(b), uint64(len(b)))
		if err != nil {
			return
		}
		o.buildID()
		_, _, _ = o.debugLink()
		if mini, err := o.mini(); err == nil {
			_, _ = mini.symtab()
		}
		if table, err := o.symtab(); err == nil {
			for i := range table.len() {
				table.file(i)
			}
			table.find("alpha")
			table.findSource(parseSource("ns::alpha(int)"))
		}
		if d, err := o.dwarf(); err == nil {
			_, _ = d.Reader().SeekPC(0x100)
		}
	})
}

func FuzzInflate(f *testing.F) {
	b := symtabFile(f)
	o, err := readObject(bytes.NewReader(b), uint64(len(b)))
	if err != nil {
		f.Fatal(err)
	}
	s, _ := o.section(".gnu_debugdata")
	packed, err := o.data(s, maxMini)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Add([]byte("\x28\xb5\x2f\xfd\x00\x00\x09\x00\x00hi"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if out, err := inflate(b, 1<<20); err == nil && len(out) > 1<<20 {
			t.Errorf("%d bytes", len(out))
		}
	})
}

func FuzzDebugLink(f *testing.F) {
	f.Add([]byte("a.debug\x00\x01\x02\x03\x04"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if name, _, err := parseDebugLink(b); err == nil && (name == "" || strings.Contains(name, "/")) {
			t.Errorf("name %q", name)
		}
	})
}

// Whatever somebody types, and whatever a symbol is called.
func FuzzName(f *testing.F) {
	f.Add("ns::f(const char *, std::vector<int> >)", "_ZN2ns1fEPKc")
	f.Add("libc.so.6!a.c:b@@V<(", "_RNvNtCsj6gjteTz5uu_1b5inner4deep")
	f.Fuzz(func(t *testing.T, typed, symbol string) {
		m, err := load(image(true, true))
		if err != nil {
			t.Fatal(err)
		}
		s := NewSymbols([]*Module{m})
		if all, err := s.Lookup(typed); err == nil && len(all) == 0 {
			t.Error("neither found nor an error")
		}
		_, _ = s.Search(typed)
		parseSource(typed).names(symbol)
		distance(strings.ToLower(typed), strings.ToLower(symbol))
	})
}
