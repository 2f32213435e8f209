// A thread named "allocator" that allocates and frees all the time, and checks what it keeps; the first thread answers
// lines with "rounds N bad N".
#define _GNU_SOURCE
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static volatile unsigned long rounds, bad;

static void *allocate(void *p) {
	enum { n = 200 };
	static unsigned char *kept[n];
	static size_t size[n];
	unsigned long x = 88172645463325252u;
	pthread_setname_np(pthread_self(), "allocator");
	write(1, "ready\n", 6);
	for (;; rounds++) {
		x ^= x << 13, x ^= x >> 7, x ^= x << 17;
		int i = x % n;
		if (kept[i] && (kept[i][0] != (unsigned char)i || kept[i][size[i] - 1] != (unsigned char)i))
			bad++;
		free(kept[i]);
		size[i] = 1 + (x >> 20) % ((x >> 40) % 16 ? 200 : 20000);
		kept[i] = malloc(size[i]);
		kept[i][0] = kept[i][size[i] - 1] = i;
		for (volatile int k = 0; k < 300; k++)
			;
	}
	return p;
}

int main(void) {
	pthread_t t;
	char line[100];
	pthread_create(&t, 0, allocate, 0);
	while (read(0, line, sizeof line) > 0) {
		for (unsigned long last = rounds; rounds < last + 1000;)
			usleep(100);
		int n = snprintf(line, sizeof line, "rounds %lu bad %lu\n", rounds, bad);
		write(1, line, n);
	}
	_exit(bad != 0);
}
