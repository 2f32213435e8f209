// A function that changes every register that a C function may, and all extended state there is: returns rdi + 2*rsi.
	.text
	lea (%rdi,%rsi,2), %rax
	mov $-1, %rcx
	mov %rcx, %rdx
	mov %rcx, %rsi
	mov %rcx, %rdi
	mov %rcx, %r8
	mov %rcx, %r9
	mov %rcx, %r10
	mov %rcx, %r11
	movq %rcx, -8(%rsp)
	movq %rcx, -128(%rsp)
	fld1
	fldpi
	fldl2t
	movl $0x3f80, -12(%rsp)
	ldmxcsr -12(%rsp)
	vzeroall
	kxnorq %k0, %k0, %k1
	vpternlogd $0xff, %zmm17, %zmm17, %zmm17
	stc
	ret
