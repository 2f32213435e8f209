// A process with N threads: the first answers lines on its standard input, the others wait on a futex, except the
// second, which computes. It answers "ok" to "ping", and exits 0 at the end of its input.
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static pthread_mutex_t never = PTHREAD_MUTEX_INITIALIZER;
static volatile unsigned long work;

static void *wait_forever(void *p) {
	pthread_mutex_lock(&never);
	return p;
}

static void *compute(void *p) {
	for (;;)
		work = work * 6364136223846793005u + 1;
	return p;
}

int main(int argc, char **argv) {
	int n = argc > 1 ? atoi(argv[1]) : 1;
	int computing = argc > 2 && !strcmp(argv[2], "compute");
	pthread_mutex_lock(&never);
	pthread_attr_t small;
	pthread_attr_init(&small);
	pthread_attr_setstacksize(&small, 256 << 10);
	for (int i = 1; i < n; i++) {
		pthread_t t;
		if (pthread_create(&t, &small, computing && i == 1 ? compute : wait_forever, 0))
			return 1;
	}
	puts("ready");
	fflush(stdout);
	char line[100];
	while (fgets(line, sizeof line, stdin)) {
		puts("ok");
		fflush(stdout);
	}
	_exit(0);
}
