// A 32-bit program without a C library: says "ready", then waits for the end of its input.
	.globl _start
_start:
	mov $4, %eax
	mov $1, %ebx
	mov $text, %ecx
	mov $6, %edx
	int $0x80
1:	mov $3, %eax
	mov $0, %ebx
	mov $buf, %ecx
	mov $1, %edx
	int $0x80
	test %eax, %eax
	jg 1b
	mov $1, %eax
	mov $0, %ebx
	int $0x80
	.section .rodata
text:	.ascii "ready\n"
	.bss
buf:	.byte 0
