// A process in a state that is hard to borrow, named by its first argument. It says "ready" and then answers every line
// with "ok"; what else it does is said at the states.
#define _GNU_SOURCE
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/rseq.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static char **self;

static void say(const char *s) {
	if (write(1, s, strlen(s)) < 0)
		_exit(3);
}

// talk answers lines by read and write alone, which strict seccomp allows.
static void *talk(void *p) {
	char line[100];
	for (ssize_t n; (n = read(0, line, sizeof line)) > 0;) {
		if (!strncmp(line, "exec", 4))
			execv("/proc/self/exe", self);
		say("ok\n");
	}
	syscall(SYS_exit, 0); // alone, or the last thread
	return p;
}

// vfork: a thread waits in vfork until its child has read the end of a pipe.
static int hold[2];
static void *vforker(void *p) {
	if (vfork() == 0) {
		char c;
		close(hold[1]);
		say("ready\n");
		while (read(hold[0], &c, 1) > 0)
			;
		_exit(0);
	}
	return p;
}

// zombie: the first thread has ended.
static pthread_t first;
static void *survivor(void *p) {
	pthread_join(first, 0);
	say("ready\n");
	talk(0);
	_exit(0);
}

// storm: threads that count, come and go. The second line it says is the counter's address.
static volatile uint64_t counter;
static void *count(void *p) {
	for (int i = 0; i < 20000; i++)
		__atomic_add_fetch(&counter, 1, __ATOMIC_RELAXED);
	return p;
}
static void *breeder(void *p) {
	for (;;) {
		pthread_t t[4];
		for (int i = 0; i < 4; i++)
			pthread_create(&t[i], 0, count, 0);
		for (int i = 0; i < 4; i++)
			pthread_join(t[i], 0);
	}
	return p;
}

// rseq: a thread in restartable sequences that check that nobody changed "epoch" inside one. Lines are answered by
// "sections N aborts N broken N" and its second line is epoch's address.
volatile uint64_t epoch, sections, aborts, broken;
static void *sequences(void *p) {
	struct rseq *r = (void *)((char *)__builtin_thread_pointer() + __rseq_offset);
	for (;;) {
		uint64_t was, is;
		asm volatile goto(
			".pushsection __rseq_cs, \"aw\"\n .balign 32\n"
			"3: .long 0, 0\n .quad 1f, 2f-1f, 4f\n"
			".popsection\n"
			"leaq 3b(%%rip), %%rax\n movq %%rax, %[cs]\n"
			"1: movq epoch(%%rip), %%rdx\n movl $3000, %%ecx\n"
			"5: loop 5b\n"
			"movq epoch(%%rip), %%rbx\n cmpq %%rdx, %%rbx\n jne %l[was_broken]\n"
			"incq sections(%%rip)\n"
			"2:\n"
			".pushsection .text.abort, \"ax\"\n"
			".byte 0x0f, 0xb9, 0x3d\n .long 0x53053053\n"
			"4: jmp %l[aborted]\n"
			".popsection\n"
			:
			: [cs] "m"(r->rseq_cs)
			: "rax", "rbx", "rcx", "rdx", "memory", "cc"
			: was_broken, aborted);
		continue;
	was_broken:
		broken++;
		continue;
	aborted:
		aborts++;
	}
	return p;
}

static void filter(unsigned nr, unsigned action) {
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, AUDIT_ARCH_X86_64, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, action),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {sizeof f / sizeof *f, f};
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog))
		abort();
}

int main(int argc, char **argv) {
	self = argv;
	const char *state = argv[1];
	pthread_t t;
	char text[100];
	if (!strcmp(state, "vfork")) {
		if (pipe(hold))
			return 1;
		pthread_create(&t, 0, vforker, 0);
		char line[100]; // the child says ready
		while (read(0, line, sizeof line) > 0)
			say("ok\n");
		close(hold[1]); // lets the child go
		pthread_join(t, 0);
		_exit(0);
	} else if (!strcmp(state, "zombie")) {
		first = pthread_self();
		pthread_create(&t, 0, survivor, 0);
		pthread_exit(0);
	} else if (!strcmp(state, "storm")) {
		for (int i = 0; i < 3; i++)
			pthread_create(&t, 0, breeder, 0);
		snprintf(text, sizeof text, "ready\n%lu\n", (unsigned long)&counter);
		say(text);
		char line[100];
		while (read(0, line, sizeof line) > 0)
			say("ok\n");
		_exit(0);
	} else if (!strcmp(state, "rseq")) {
		pthread_create(&t, 0, sequences, 0);
		snprintf(text, sizeof text, "ready\n%lu\n", (unsigned long)&epoch);
		say(text);
		char line[100];
		while (read(0, line, sizeof line) > 0) {
			snprintf(text, sizeof text, "sections %lu aborts %lu broken %lu\n", sections, aborts, broken);
			say(text);
		}
		_exit(0);
	} else if (!strcmp(state, "seccomp-kill")) {
		filter(SYS_mmap, SECCOMP_RET_KILL_PROCESS);
	} else if (!strcmp(state, "seccomp-errno")) {
		filter(SYS_getppid, SECCOMP_RET_ERRNO | 1);
	} else if (!strcmp(state, "seccomp-deadly")) {
		filter(SYS_sched_yield, SECCOMP_RET_KILL_PROCESS);
	} else if (!strcmp(state, "seccomp-trap")) {
		filter(SYS_getpid, SECCOMP_RET_TRAP);
	} else if (!strcmp(state, "seccomp-strict")) {
		say("ready\n");
		prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT);
		talk(0);
	} else if (!strcmp(state, "mdwe")) {
		if (prctl(65 /* PR_SET_MDWE */, 1, 0, 0, 0))
			return 1;
	}
	say("ready\n");
	talk(0);
}
