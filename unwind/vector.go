package unwind

// vectorLength is the number of bytes of a VEX- or EVEX-encoded instruction (Intel SDM, volume 2, sections 2.3 and
// 2.7), which the disassembler doesn't know; 0 for any other, and for those that write to a general register: only of
// the others is it certain that they do nothing to the stack.
func vectorLength(b []byte) int {
	if len(b) < 6 {
		return 0
	}
	var n int
	var table, opcode byte // the opcode table: 1 is 0F, 2 is 0F38, 3 is 0F3A
	switch b[0] {
	case 0xc5:
		n, table = 2, 1
	case 0xc4:
		n, table = 3, b[1]&0x1f
	case 0x62:
		n, table = 4, b[1]&7
	default:
		return 0
	}
	opcode = b[n]
	n++
	if table < 1 || table > 3 || writesGeneral(table, opcode) {
		return 0
	}
	if table == 1 && opcode == 0x77 {
		return n // vzeroupper, vzeroall: no operands
	}
	if n = operands(b, n); n == 0 {
		return 0
	}
	if hasImmediate(table, opcode) {
		n++
	}
	if n > len(b) {
		return 0
	}
	return n
}

// operands steps over the ModRM byte at n and what belongs to it.
func operands(b []byte, n int) int {
	mod, rm := b[n]>>6, b[n]&7
	n++
	if mod != 3 && rm == 4 {
		if n >= len(b) {
			return 0
		}
		if b[n]&7 == 5 && mod == 0 {
			n += 4
		}
		n++
	}
	switch {
	case mod == 1:
		n++
	case mod == 2 || mod == 0 && rm == 5:
		n += 4
	}
	return n
}

func hasImmediate(table, opcode byte) bool {
	switch table {
	case 3:
		return true
	case 1:
		return opcode >= 0x70 && opcode <= 0x73 || opcode == 0xc2 || opcode >= 0xc4 && opcode <= 0xc6
	}
	return false
}

// writesGeneral: moves and conversions to general registers, masks of signs, and the bit manipulation instructions.
func writesGeneral(table, opcode byte) bool {
	switch table {
	case 1:
		switch opcode {
		case 0x2c, 0x2d, 0x50, 0x78, 0x79, 0x7e, 0x90, 0x91, 0x92, 0x93, 0xc5, 0xd7:
			return true
		}
	case 2:
		return opcode >= 0xf2 && opcode <= 0xf7
	case 3:
		return opcode >= 0x14 && opcode <= 0x17 || opcode == 0xf0 || opcode >= 0x60 && opcode <= 0x63
	}
	return false
}
