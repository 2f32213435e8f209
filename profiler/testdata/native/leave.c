/* Calls of a function that allocates, which are left otherwise than by their return; see left_test.go. */
#define _GNU_SOURCE
#include <pthread.h>
#include <setjmp.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { JUMPS, ENDS };

static __thread jmp_buf back;
static __thread int how;

/* In the place of libc's, since this is preloaded; called through a slot. */
void *valloc(size_t size)
{
	(void)size;
	if (how == ENDS)
		pthread_exit(0);
	longjmp(back, 1);
}

static void leave(void)
{
	if (!setjmp(back))
		free(valloc(100));
}

/* Writes over what was left on the stack, and waits there. */
static void wait_over(int ready, int go)
{
	volatile char room[4096];
	char c = 0;
	for (unsigned i = 0; i < sizeof room; i++)
		room[i] = (char)i;
	if (write(ready, &c, 1) == 1 && read(go, &c, 1) == 1)
		room[0] = c;
}

void leave_wait(int ready, int go)
{
	leave();
	wait_over(ready, go);
}

static void *ending(void *arg)
{
	how = ENDS;
	leave();
	return arg;
}

int leave_end(void)
{
	pthread_t thread;
	return pthread_create(&thread, 0, ending, 0) || pthread_join(thread, 0);
}

/* Leaves such a call again and again, and allocates n blocks of 1000 bytes between. */
void leave_make(int n)
{
	for (int i = 0; i < n; i++) {
		leave();
		memset(malloc(1000), i, 1000);
	}
}
