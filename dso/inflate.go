package dso

import (
	"bytes"
	"compress/zlib"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxRatio bounds how much larger than its compressed form a section may be. Debug information shrinks to a third or a
// fifth, its most regular sections to a fortieth; what claims more than this is made to use up memory.
const maxRatio = 256

// maxDictionary is the largest xz dictionary that is made, bytes: that of xz -9.
const maxDictionary = 64 << 20

var errBomb = errors.New("compressed data claim to be far larger than real ones are")

// inflateSection uncompresses a section: SHF_COMPRESSED with its Elf64_Chdr (gABI, "Section Compression"), or the older
// .zdebug_* with "ZLIB" and a big-endian size before the data.
func inflateSection(s elf.SectionHeader, b []byte, max uint64) ([]byte, error) {
	switch {
	case s.Flags&elf.SHF_COMPRESSED != 0:
		const header = 24
		if len(b) < header {
			return nil, io.ErrUnexpectedEOF
		}
		size, rest := binary.LittleEndian.Uint64(b[8:]), b[header:]
		switch kind := elf.CompressionType(binary.LittleEndian.Uint32(b)); kind {
		case elf.COMPRESS_ZLIB:
			return inflateZlib(rest, size, max)
		case elf.COMPRESS_ZSTD:
			return inflateZstd(rest, size, max)
		default:
			return nil, fmt.Errorf("unknown compression %v", kind)
		}
	case strings.HasPrefix(s.Name, ".zdebug_"):
		if len(b) < 12 || string(b[:4]) != "ZLIB" {
			return nil, errors.New("no ZLIB header")
		}
		return inflateZlib(b[12:], binary.BigEndian.Uint64(b[4:]), max)
	}
	return b, nil
}

// plausible checks the size that a header claims for compressed data.
func plausible(compressed int, size, max uint64) error {
	if size > max {
		return fmt.Errorf("%d uncompressed bytes are more than the %d that are read", size, max)
	}
	if size > uint64(compressed+1024)*maxRatio {
		return errBomb
	}
	return nil
}

func inflateZlib(b []byte, size, max uint64) ([]byte, error) {
	if err := plausible(len(b), size, max); err != nil {
		return nil, err
	}
	z, err := zlib.NewReader(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return exactly(z, size)
}

func inflateZstd(b []byte, size, max uint64) ([]byte, error) {
	if err := plausible(len(b), size, max); err != nil {
		return nil, err
	}
	z, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxDictionary))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	return exactly(z, size)
}

// exactly reads size bytes, and nothing must follow. It allocates as the bytes come, not what size says.
func exactly(r io.Reader, size uint64) ([]byte, error) {
	var out bytes.Buffer
	n, err := io.Copy(&out, io.LimitReader(r, int64(size)+1))
	if err != nil {
		return nil, err
	}
	if uint64(n) != size {
		return nil, fmt.Errorf("uncompressed data are not %d bytes as said", size)
	}
	return out.Bytes(), nil
}

// inflate uncompresses .gnu_debugdata: one xz or zstd stream without any size before it.
func inflate(b []byte, max uint64) ([]byte, error) {
	switch {
	case bytes.HasPrefix(b, []byte("\xfd7zXZ\x00")):
		size, err := xzSize(b)
		if err != nil {
			return nil, fmt.Errorf("xz: %w", err)
		}
		if err := plausible(len(b), size, max); err != nil {
			return nil, err
		}
		z, err := xz.NewReader(bytes.NewReader(b))
		if err != nil {
			return nil, err
		}
		return exactly(z, size)
	case bytes.HasPrefix(b, []byte("\x28\xb5\x2f\xfd")):
		return inflateZstdStream(b, max)
	}
	return nil, errors.New("neither xz nor zstd")
}

// inflateZstdStream reads frames that may not say how large they are.
func inflateZstdStream(b []byte, max uint64) ([]byte, error) {
	z, err := zstd.NewReader(bytes.NewReader(b), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxDictionary))
	if err != nil {
		return nil, err
	}
	defer z.Close()
	limit := min(max, uint64(len(b)+1024)*maxRatio)
	var out bytes.Buffer
	n, err := io.Copy(&out, io.LimitReader(z, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	if uint64(n) > limit {
		return nil, errBomb
	}
	return out.Bytes(), nil
}

// xzSize walks the blocks of an xz stream without decoding them, and tells how many bytes they hold. The decoder would
// allocate the dictionary that a block claims, up to 4 GiB; here a claim beyond [maxDictionary] is an error. Layout:
// the .xz file format 1.2, sections 2 and 3; LZMA2 chunks begin with a control byte that tells their sizes.
func xzSize(b []byte) (uint64, error) {
	const streamHeader = 12
	if len(b) < streamHeader || crc32.ChecksumIEEE(b[6:8]) != binary.LittleEndian.Uint32(b[8:]) {
		return 0, errors.New("bad stream header")
	}
	check, ok := map[byte]int{0: 0, 1: 4, 4: 8, 10: 32}[b[7]]
	if !ok {
		return 0, fmt.Errorf("unknown check %d", b[7])
	}
	var total uint64
	at := streamHeader
	for at < len(b) && b[at] != 0 { // 0 begins the index
		header := (int(b[at]) + 1) * 4
		if at+header > len(b) {
			return 0, io.ErrUnexpectedEOF
		}
		if err := checkXZBlock(b[at : at+header]); err != nil {
			return 0, err
		}
		begin := at + header
		end, size, err := lzma2Size(b, begin)
		if err != nil {
			return 0, err
		}
		total += size
		at = end + (4-(end-begin)%4)%4 + check
	}
	if at >= len(b) {
		return 0, io.ErrUnexpectedEOF
	}
	return total, nil
}

// checkXZBlock accepts a block of one filter, LZMA2, with a dictionary that can be had.
func checkXZBlock(h []byte) error {
	flags, rest := h[1], h[2:len(h)-4]
	if flags&3 != 0 {
		return errors.New("filters beside LZMA2")
	}
	for _, present := range []byte{0x40, 0x80} { // compressed and uncompressed size
		if flags&present == 0 {
			continue
		}
		_, n := binary.Uvarint(rest)
		if n <= 0 {
			return errors.New("bad block header")
		}
		rest = rest[n:]
	}
	if len(rest) < 3 || rest[0] != 0x21 || rest[1] != 1 {
		return errors.New("another filter than LZMA2")
	}
	bits := rest[2] // dictionary: (2 or 3) << (bits/2 + 11)
	if bits > 40 || uint64(2|bits&1)<<(bits/2+11) > maxDictionary {
		return fmt.Errorf("dictionary of more than %d bytes", maxDictionary)
	}
	return nil
}

// lzma2Size walks chunks from at to behind the end marker.
func lzma2Size(b []byte, at int) (end int, size uint64, err error) {
	for at < len(b) {
		control := b[at]
		if control == 0 {
			return at + 1, size, nil
		}
		if at+6 > len(b) {
			break
		}
		low := uint64(binary.BigEndian.Uint16(b[at+1:])) + 1
		switch {
		case control >= 0x80: // LZMA, with new properties from 0xc0 on
			size += low + uint64(control&0x1f)<<16
			at += 5 + int(binary.BigEndian.Uint16(b[at+3:])) + 1
			if control >= 0xc0 {
				at++
			}
		case control <= 2: // stored
			size += low
			at += 3 + int(low)
		default:
			return 0, 0, fmt.Errorf("bad chunk %#x", control)
		}
	}
	return 0, 0, io.ErrUnexpectedEOF
}
