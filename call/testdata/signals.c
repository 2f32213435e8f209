// Says on its standard output which thread took each SIGUSR1, "first" or "other": eight others wait beside the first, and
// block nothing. It exits 0 at the end of its input.
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

static void say(const char *text) {
	if (write(1, text, 6) != 6)
		_exit(1);
}

static void took(int number) { say(syscall(SYS_gettid) == getpid() ? "first\n" : "other\n"); }

static void *wait_forever(void *p) {
	for (;;)
		pause();
	return p;
}

int main(void) {
	struct sigaction a = {.sa_handler = took, .sa_flags = SA_RESTART};
	char c;

	if (sigaction(SIGUSR1, &a, 0))
		return 1;
	for (int i = 0; i < 8; i++) {
		pthread_t t;
		if (pthread_create(&t, 0, wait_forever, 0))
			return 1;
	}
	say("ready\n");
	while (read(0, &c, 1) == 1)
		;
	_exit(0);
}
