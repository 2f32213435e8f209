#include "textflag.h"

// onSignal writes the beginning of its siginfo_t, 16 bytes, to the relay's pipe. It runs on the signal stack of whatever
// thread of ours the signal has come to, and touches nothing of the Go runtime's. What it changes in registers, the
// kernel gives back.
TEXT ·onSignal(SB),NOSPLIT|NOFRAME,$0
	MOVL ·relayTo(SB), DI
	MOVL $16, DX
	MOVL $1, AX // SYS_write
	SYSCALL
	RET

// restoreSignal is where onSignal returns to.
TEXT ·restoreSignal(SB),NOSPLIT|NOFRAME,$0
	MOVL $15, AX // SYS_rt_sigreturn
	SYSCALL
	INT $3 // never reached

TEXT ·handlerAddress(SB),NOSPLIT,$0-8
	LEAQ ·onSignal(SB), AX
	MOVQ AX, ret+0(FP)
	RET

TEXT ·restorerAddress(SB),NOSPLIT,$0-8
	LEAQ ·restoreSignal(SB), AX
	MOVQ AX, ret+0(FP)
	RET
