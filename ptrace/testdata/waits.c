// Says "ready" and waits for the end of its input in read(2), which a second thread does, too, in another call.
#include <pthread.h>
#include <stdio.h>
#include <unistd.h>

static void *wait(void *p) {
	pause();
	return p;
}

int main(void) {
	pthread_t t;
	pthread_create(&t, 0, wait, 0);
	puts("ready");
	fflush(stdout);
	char c;
	while (read(0, &c, 1) > 0)
		;
	_exit(0);
}
