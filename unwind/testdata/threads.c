// Threads that are blocked in system calls, one that computes, and a signal handler that waits on an alternate stack.
#define _GNU_SOURCE
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t never = PTHREAD_COND_INITIALIZER;
static sem_t begun;
static volatile double result;

static void *sleeps(void *p) {
	sem_post(&begun);
	for (;;)
		sleep(1000);
	return p;
}

static void *polls(void *p) {
	sem_post(&begun);
	for (;;)
		poll(0, 0, -1);
	return p;
}

static void *waits(void *p) {
	pthread_mutex_lock(&lock);
	sem_post(&begun);
	for (;;)
		pthread_cond_wait(&never, &lock);
	return p;
}

static void *computes(void *p) {
	pthread_setname_np(pthread_self(), "computes");
	sem_post(&begun);
	for (;;) {
		struct timespec now;
		clock_gettime(CLOCK_MONOTONIC, &now);
		char text[64];
		snprintf(text, sizeof text, "%.17g", now.tv_nsec / 3.0);
		result += strtod(text, 0);
		free(malloc(now.tv_nsec % 5000));
	}
	return p;
}

static void handler(int sig) {
	sem_post(&begun);
	for (;;)
		pause();
}

static void *handles(void *p) {
	static char alternate[65536];
	stack_t s = {.ss_sp = alternate, .ss_size = sizeof alternate};
	sigaltstack(&s, 0);
	struct sigaction a = {.sa_handler = handler, .sa_flags = SA_ONSTACK};
	sigaction(SIGHUP, &a, 0);
	pthread_kill(pthread_self(), SIGHUP);
	return p;
}

int main(void) {
	void *(*all[])(void *) = {sleeps, polls, waits, computes, handles};
	for (unsigned i = 0; i < sizeof all / sizeof all[0]; i++) {
		pthread_t t;
		pthread_create(&t, 0, all[i], 0);
		sem_wait(&begun);
	}
	puts("ready");
	fflush(stdout);
	char c;
	while (read(0, &c, 1) > 0)
		;
	_exit(0);
}
