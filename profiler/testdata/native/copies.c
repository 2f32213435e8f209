/* What a program may do with the address of a function that it has from a slot; see copies_test.go. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

typedef void (*function)(void *);

static int ready[2], go[2];

static long raw(long nr, long a, void *b, long c)
{
	long r;
	__asm__ volatile("syscall" : "=a"(r) : "0"(nr), "D"(a), "S"(b), "d"(c) : "rcx", "r11", "memory");
	return r;
}

int begin(void) { return pipe(ready) || pipe(go); }
void await(void) { char c; while (read(ready[0], &c, 1) != 1); }
void release(void) { char c = 0; if (write(go[1], &c, 1) != 1) abort(); }

/* In a register over system calls that a thread waits in. */
void in_register(void)
{
	char c = 0;
	void *p = malloc(10);
	register function f __asm__("rbx") = free;
	__asm__ volatile("" : "+r"(f));
	raw(1, ready[1], &c, 1);
	while (raw(0, go[0], &c, 1) != 1)
		__asm__ volatile("" : "+r"(f));
	__asm__ volatile("" : "+r"(f));
	f(p);
}

/* By turns in a register and on the stack, and called now and then. */
static volatile int ended;
void start(void) { ended = 0; }
void end(void) { ended = 1; }
void in_turns(void)
{
	char c = 0;
	register function f __asm__("rbx") = free;
	__asm__ volatile("" : "+r"(f));
	raw(1, ready[1], &c, 1);
	while (!ended) {
		long n = 200000;
		__asm__ volatile("sub $256, %%rsp; push %%rbx; xor %%ebx, %%ebx; 1: dec %0; jnz 1b; pop %%rbx; add $256, %%rsp"
		                 : "+r"(n) : : "memory", "cc");
		n = 200000;
		__asm__ volatile("1: dec %0; jnz 1b" : "+r"(n), "+r"(f) : : "cc");
		f(0);
	}
}

/* Mangled, in the list of what is to be done at exit. */
int __cxa_atexit(function f, void *argument, void *module);
void mangle_make(void) { __cxa_atexit(free, malloc(10), 0); }

/* In memory of a kind, which it can be called through and taken out of. */
static function *made;
static void *page(int flags) { return mmap(0, 4096, PROT_READ | PROT_WRITE, flags | MAP_ANONYMOUS, -1, 0); }
void readonly_make(void) { made = page(MAP_PRIVATE); *made = free; mprotect(made, 4096, PROT_READ); }
void heap_make(void) { made = malloc(sizeof *made); *made = free; }
void odd_make(void) { made = (function *)((char *)page(MAP_PRIVATE) + 3); *made = free; }
void shared_make(void) { made = page(MAP_SHARED); *made = free; }
void code_make(void) { made = page(MAP_PRIVATE); *made = free; mprotect(made, 4096, PROT_READ | PROT_EXEC); }
void use(void) { (*made)(malloc(10)); }
void drop(void) { mprotect((void *)((long)made & -4096), 4096, PROT_READ | PROT_WRITE); *made = 0; }

/* Modules that come and go, and are called. */
int churn(const char *folder, int modules)
{
	char c = 0;
	raw(1, ready[1], &c, 1);
	while (!ended) {
		void *handles[64];
		for (int i = 0; i < modules; i++) {
			char path[4096];
			snprintf(path, sizeof path, "%s/%d.so", folder, i);
			if (!(handles[i] = dlopen(path, RTLD_NOW)))
				return 1;
			free(malloc(3));
			for (int j = 0; j <= i; j++)
				((void (*)(void))dlsym(handles[j], "work"))();
		}
		for (int i = 0; i < modules; i++)
			dlclose(handles[i]);
	}
	return 0;
}
