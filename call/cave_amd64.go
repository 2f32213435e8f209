package call

// caveCode is the code that a borrowed thread executes. It is entered by setting the program counter, with the stack
// pointer at a signal frame whose first word is the address of the rt_sigreturn below, or for a call at the arguments
// below the frame.
//
// The rt_sigreturn has the very bytes of a C library's, by which unwinders know a signal frame. A call's return address
// is elsewhere, so that an exception that leaves the function finds the end of the stack, and not our thread's frames.
//
// caveCall has everything in registers that a C function preserves: in rbx the call's block (see block_amd64.go), which
// is at a fixed distance from the frame, in r12 the marker's number, in r13 the address of errno (or 0) and in r14 its
// value, in r15 the function. It puts errno back, so that this too is done when we are dead. The child of a fork comes to
// the marker as well, and is told by its number, where the marker tells it: it ends there, or it would go on as a second
// copy of the target.
//
// caveShelter is entered with the stack pointer in the thread's own stack, and restores the thread from a frame that is
// elsewhere: from what is at rbx, behind the frame's first word. It blocks signals before it goes there, for frames in
// memory that a handler could not run on.
var caveCode = []byte{
	'h', 'e', 'a', 'p', 't', 'a', 'p', ' ', 'c', 'a', 'v', 'e', ' ', '3', 0, 0,
	// caveSyscall
	0x0f, 0x05, // syscall
	0xc3,                         // ret
	0xcc, 0xcc, 0xcc, 0xcc, 0xcc, //
	// caveSigreturn
	0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, // mov $15, %rax
	0x0f, 0x05, // syscall
	0x0f, 0x0b, // ud2: never reached
	0xcc, 0xcc, 0xcc, 0xcc, 0xcc, //
	// caveCall: the floating point state is the one that the ABI promises at a function's entry
	0xfc,       // cld
	0xdb, 0xe3, // fninit
	0x0f, 0xae, 0x15, 0x6a, 0, 0, 0, // ldmxcsr mxcsr(%rip)
	0x0f, 0x28, 0x43, 0x80, // movaps -128(%rbx), %xmm0
	0x0f, 0x28, 0x4b, 0x90, // movaps -112(%rbx), %xmm1
	0x0f, 0x28, 0x53, 0xa0, // movaps -96(%rbx), %xmm2
	0x0f, 0x28, 0x5b, 0xb0, // movaps -80(%rbx), %xmm3
	0x0f, 0x28, 0x63, 0xc0, // movaps -64(%rbx), %xmm4
	0x0f, 0x28, 0x6b, 0xd0, // movaps -48(%rbx), %xmm5
	0x0f, 0x28, 0x73, 0xe0, // movaps -32(%rbx), %xmm6
	0x0f, 0x28, 0x7b, 0xf0, // movaps -16(%rbx), %xmm7
	0x41, 0xff, 0xd7, // call *%r15
	0x0f, 0x29, 0x03, // movaps %xmm0, (%rbx)
	0x0f, 0x29, 0x4b, 0x10, // movaps %xmm1, 16(%rbx)
	0x48, 0x89, 0x43, 0x20, // mov %rax, 32(%rbx)
	0x48, 0x89, 0x53, 0x28, // mov %rdx, 40(%rbx)
	0xdb, 0x7b, 0x30, // fstpt 48(%rbx)
	0x4d, 0x85, 0xed, // test %r13, %r13
	0x74, 0x0b, // jz 1f
	0x41, 0x8b, 0x4d, 0, // mov (%r13), %ecx
	0x89, 0x4b, 0x40, // mov %ecx, 64(%rbx)
	0x45, 0x89, 0x75, 0, // mov %r14d, (%r13)
	0x4c, 0x89, 0xe0, // 1: mov %r12, %rax
	0x48, 0x83, 0xcf, 0xff, // or $-1, %rdi
	0x0f, 0x05, // syscall
	// caveMarker
	0x8b, 0x4b, 0x44, // mov 68(%rbx), %ecx
	0xe3, 0x04, // jrcxz 2f
	0x39, 0xc1, // cmp %eax, %ecx
	0x75, 0x06, // jne 3f
	0x48, 0x8d, 0x63, 0x60, // 2: lea 96(%rbx), %rsp
	0xeb, 0x89, // jmp caveSigreturn
	0xb8, 0xe7, 0, 0, 0, // 3: mov $SYS_exit_group, %eax
	0x31, 0xff, // xor %edi, %edi
	0x0f, 0x05, // syscall
	0x0f, 0x0b, // ud2: never reached
	0xcc, 0xcc, //
	0x80, 0x1f, 0, 0, // mxcsr: all exceptions masked, round to nearest
	// caveShelter
	0xb8, 0x0e, 0, 0, 0, // mov $SYS_rt_sigprocmask, %eax
	0xbf, 0x02, 0, 0, 0, // mov $SIG_SETMASK, %edi
	0x48, 0x8d, 0x35, 0x17, 0, 0, 0, // lea mask(%rip), %rsi
	0x31, 0xd2, // xor %edx, %edx
	0x41, 0xba, 0x08, 0, 0, 0, // mov $8, %r10d
	0x0f, 0x05, // syscall
	0x48, 0x89, 0xdc, // mov %rbx, %rsp
	0xe9, 0x55, 0xff, 0xff, 0xff, // jmp caveSigreturn
	0xcc, 0xcc, 0xcc, 0xcc, 0xcc, //
	0x27, 0xfb, 0xff, 0xbf, 0xff, 0xff, 0xff, 0xff, // mask: blockedSignals
}

const (
	caveSyscall   = 16
	caveSigreturn = 24
	caveCall      = 40
	caveMarker    = 128
	caveShelter   = 160
)
