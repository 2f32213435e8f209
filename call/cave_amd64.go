package call

// caveCode is the code that a borrowed thread executes. It is entered by setting the program counter, with the stack
// pointer at a signal frame whose first word is the address of the rt_sigreturn below.
//
// The rt_sigreturn has the very bytes of a C library's, by which unwinders know a signal frame. The call's floating
// point state is the one that the ABI promises at a function's entry. rbx holds the function and then its result, r12
// the marker's number: registers that a C function preserves.
//
// caveShelter is entered with the stack pointer in the thread's own stack, and restores the thread from a frame that is
// elsewhere: from what is at rbx, behind the frame's first word. It blocks signals before it goes there, for frames in
// memory that a handler could not run on.
var caveCode = []byte{
	'h', 'e', 'a', 'p', 't', 'a', 'p', ' ', 'c', 'a', 'v', 'e', ' ', '2', 0, 0,
	// caveSyscall
	0x0f, 0x05, // syscall
	0xc3,                         // ret
	0xcc, 0xcc, 0xcc, 0xcc, 0xcc, //
	// caveSigreturn
	0x48, 0xc7, 0xc0, 0x0f, 0, 0, 0, // mov $15, %rax
	0x0f, 0x05, // syscall
	0x0f, 0x0b, // ud2: never reached
	0xcc, 0xcc, 0xcc, 0xcc, 0xcc, //
	// caveRun
	0xfc,       // cld
	0xdb, 0xe3, // fninit
	0x0f, 0xae, 0x15, 0x16, 0, 0, 0, // ldmxcsr mxcsr(%rip)
	0x53,       // push %rbx: the stack is 16-byte aligned at the call
	0xff, 0xd3, // call *%rbx
	0x59,             // pop %rcx
	0x48, 0x89, 0xc3, // mov %rax, %rbx
	0x4c, 0x89, 0xe0, // mov %r12, %rax
	0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff, // mov $-1, %rdi
	0x0f, 0x05, // syscall
	// caveMarker
	0xc3,       // ret
	0xcc, 0xcc, //
	0x80, 0x1f, 0, 0, // mxcsr: all exceptions masked, round to nearest
	// caveShelter
	0xb8, 0x0e, 0, 0, 0, // mov $SYS_rt_sigprocmask, %eax
	0xbf, 0x02, 0, 0, 0, // mov $SIG_SETMASK, %edi
	0x48, 0x8d, 0x35, 0x13, 0, 0, 0, // lea mask(%rip), %rsi
	0x31, 0xd2, // xor %edx, %edx
	0x41, 0xba, 0x08, 0, 0, 0, // mov $8, %r10d
	0x0f, 0x05, // syscall
	0x48, 0x89, 0xdc, // mov %rbx, %rsp
	0xeb, 0xac, // jmp caveSigreturn
	0xcc, 0xcc, 0xcc, 0xcc, //
	0x27, 0xfb, 0xff, 0xbf, 0xff, 0xff, 0xff, 0xff, // mask: blockedSignals
}

const (
	caveSyscall   = 16
	caveSigreturn = 24
	caveRun       = 40
	caveMarker    = 69
	caveShelter   = 76
)
