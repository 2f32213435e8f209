/* A program without a library that makes the calls it is told to on its standard input. What is called is linked
   beside it. */
#pragma once

typedef unsigned long harness_word;

struct harness_call {
	harness_word function;
	harness_word integer[6];
	unsigned char vector[8][16];
	harness_word vectors;     /* al */
	harness_word stack_bytes; /* a multiple of 16 */
	unsigned char stack[1 << 16];
};

struct harness_result {
	harness_word rax, rdx;
	unsigned char xmm0[16], xmm1[16];
	unsigned char st0[16], st1[16]; /* 10 bytes of each are used */
};

extern struct harness_call harness_call;
extern struct harness_result harness_result;
void harness_ready(void);
