// A thread for each of many blocking system calls. A thread with data checks that it gets its bytes in order, a
// sleeping one how long it slept; each counts system calls that answered EINTR. The first thread answers "check" with a
// line "NAME rounds N eintr N wrong N short N longest MS" per thread and then "end".
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <mqueue.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/select.h>
#include <sys/sem.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { feed_us = 3000 };

struct worker {
	const char *name;
	int sleep_ms;                         // how long one round should take, for the sleeping ones
	int (*setup)(struct worker *);        // 0: fine
	int (*round)(struct worker *);        // one call: -1 and errno, else 0; for those with data, 1 and in byte
	void (*feed)(struct worker *, int);   // makes one round possible
	int in, out, id;
	unsigned char byte;
	uint32_t word;
	volatile unsigned long rounds, eintr, wrong, too_short;
	volatile double longest;
	pthread_t thread;
};

static double now(void) {
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1e3 + t.tv_nsec / 1e6;
}

static struct timespec ms(int n) { return (struct timespec){n / 1000, n % 1000 * 1000000L}; }
static struct timespec from_now(clockid_t c, int n) {
	struct timespec t;
	clock_gettime(c, &t);
	t.tv_nsec += n * 1000000L;
	t.tv_sec += t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	return t;
}

static int pipes(struct worker *w) {
	int p[2];
	int r = pipe(p);
	w->in = p[0], w->out = p[1];
	return r;
}
static int sockets(struct worker *w) {
	int p[2];
	int r = socketpair(AF_UNIX, SOCK_STREAM, 0, p);
	w->in = p[0], w->out = p[1];
	return r;
}
static int timeout_sockets(struct worker *w) {
	int r = sockets(w);
	struct timeval tv = {30, 0};
	return r ? r : setsockopt(w->in, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
}
static void feed_byte(struct worker *w, int i) {
	unsigned char b = i;
	if (write(w->out, &b, 1) != 1)
		abort();
}
static int got(struct worker *w, ssize_t n) { return n == 1 ? 1 : -1; }

static int r_read(struct worker *w) { return got(w, read(w->in, &w->byte, 1)); }
static int r_readv(struct worker *w) {
	struct iovec v = {&w->byte, 1};
	return got(w, readv(w->in, &v, 1));
}
static int r_recv(struct worker *w) { return got(w, recv(w->in, &w->byte, 1, 0)); }
static int r_recvmsg(struct worker *w) {
	struct iovec v = {&w->byte, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1};
	return got(w, recvmsg(w->in, &m, 0));
}
static int r_poll(struct worker *w) {
	struct pollfd p = {w->in, POLLIN, 0};
	return poll(&p, 1, -1) == 1 ? r_read(w) : -1;
}
static int r_ppoll(struct worker *w) {
	struct pollfd p = {w->in, POLLIN, 0};
	sigset_t s;
	sigfillset(&s);
	return ppoll(&p, 1, 0, &s) == 1 ? r_read(w) : -1;
}
static int r_select(struct worker *w) {
	fd_set s;
	FD_ZERO(&s);
	FD_SET(w->in, &s);
	return select(w->in + 1, &s, 0, 0, 0) == 1 ? r_read(w) : -1;
}
static int s_epoll(struct worker *w) {
	int r = pipes(w);
	w->id = epoll_create1(0);
	struct epoll_event e = {.events = EPOLLIN};
	return r ? r : epoll_ctl(w->id, EPOLL_CTL_ADD, w->in, &e);
}
static int r_epoll(struct worker *w) {
	struct epoll_event e;
	return epoll_wait(w->id, &e, 1, -1) == 1 ? r_read(w) : -1;
}
static int r_epoll_pwait(struct worker *w) {
	struct epoll_event e;
	sigset_t s;
	sigfillset(&s);
	return epoll_pwait(w->id, &e, 1, -1, &s) == 1 ? r_read(w) : -1;
}
static int s_eventfd(struct worker *w) { return (w->in = eventfd(0, EFD_SEMAPHORE)) < 0; }
static void f_eventfd(struct worker *w, int i) { eventfd_write(w->in, 1); }
static int r_eventfd(struct worker *w) {
	eventfd_t v;
	return eventfd_read(w->in, &v);
}
static int s_listen(struct worker *w) {
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	socklen_t n = sizeof a;
	w->in = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(w->in, (struct sockaddr *)&a, sizeof(sa_family_t)) || listen(w->in, 100)) // autobind
		return -1;
	return 0;
}
static void f_connect(struct worker *w, int i) {
	struct sockaddr_un a;
	socklen_t n = sizeof a;
	getsockname(w->in, (struct sockaddr *)&a, &n);
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	if (connect(s, (struct sockaddr *)&a, n))
		abort();
	close(s);
}
static int r_accept(struct worker *w) {
	int s = accept(w->in, 0, 0);
	if (s < 0)
		return -1;
	close(s);
	return 0;
}
static int s_sem(struct worker *w) {
	w->id = semget(IPC_PRIVATE, 1, 0600);
	return w->id < 0;
}
static void f_sem(struct worker *w, int i) {
	struct sembuf up = {0, 1, 0};
	semop(w->id, &up, 1);
}
static int r_semop(struct worker *w) {
	struct sembuf down = {0, -1, 0};
	return semop(w->id, &down, 1);
}
static int r_semtimedop(struct worker *w) {
	struct sembuf down = {0, -1, 0};
	struct timespec t = ms(30000);
	return semtimedop(w->id, &down, 1, &t);
}
struct message { long type; unsigned char b; };
static int s_msg(struct worker *w) { return (w->id = msgget(IPC_PRIVATE, 0600)) < 0; }
static void f_msg(struct worker *w, int i) {
	struct message m = {1, i};
	msgsnd(w->id, &m, 1, 0);
}
static int r_msg(struct worker *w) {
	struct message m;
	ssize_t n = msgrcv(w->id, &m, 1, 0, 0);
	w->byte = m.b;
	return got(w, n);
}
static void f_futex(struct worker *w, int i) {
	__atomic_add_fetch(&w->word, 1, __ATOMIC_SEQ_CST);
	syscall(SYS_futex, &w->word, FUTEX_WAKE, 1, 0, 0, 0);
}
static int r_futex(struct worker *w) {
	for (uint32_t v; (v = __atomic_load_n(&w->word, __ATOMIC_SEQ_CST)) == 0;)
		if (syscall(SYS_futex, &w->word, FUTEX_WAIT, 0, 0, 0, 0) && errno != EAGAIN)
			return -1;
	__atomic_sub_fetch(&w->word, 1, __ATOMIC_SEQ_CST);
	return 0;
}
static int s_mutexes(struct worker *w) { return 0; }
static void f_signal(struct worker *w, int i) {
	union sigval v = {.sival_int = i & 255};
	pthread_sigqueue(w->thread, SIGRTMIN, v);
}
static int r_sigwait(struct worker *w) {
	sigset_t s;
	siginfo_t si;
	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN);
	struct timespec t = ms(30000);
	if (sigtimedwait(&s, &si, &t) < 0)
		return -1;
	w->byte = si.si_value.sival_int;
	return 1;
}
static int r_wait(struct worker *w) {
	pid_t p = fork();
	if (p == 0) {
		usleep(5000);
		_exit(7);
	}
	int st;
	return waitpid(p, &st, 0) == p && WEXITSTATUS(st) == 7 ? 0 : -1;
}
static int r_fcntl(struct worker *w) { // waits for its own child's lock
	char path[] = "/tmp/heaptap-lock-XXXXXX";
	int fd = mkstemp(path);
	unlink(path);
	int ready[2];
	if (pipe(ready))
		abort();
	pid_t p = fork();
	if (p == 0) {
		struct flock l = {.l_type = F_WRLCK};
		fcntl(fd, F_SETLK, &l);
		write(ready[1], "x", 1);
		usleep(5000);
		_exit(0);
	}
	char c;
	int r = read(ready[0], &c, 1) == 1 ? 0 : -1;
	struct flock l = {.l_type = F_WRLCK};
	if (!r)
		r = fcntl(fd, F_SETLKW, &l);
	int e = errno;
	while (waitpid(p, 0, 0) < 0 && errno == EINTR)
		w->eintr++;
	close(fd), close(ready[0]), close(ready[1]);
	errno = e;
	return r;
}
static int s_timerfd(struct worker *w) { return (w->in = timerfd_create(CLOCK_MONOTONIC, 0)) < 0; }
static int r_timerfd(struct worker *w) {
	struct itimerspec t = {.it_value = ms(w->sleep_ms)};
	uint64_t n;
	timerfd_settime(w->in, 0, &t, 0);
	return read(w->in, &n, 8) == 8 ? 0 : -1;
}
static int r_nanosleep(struct worker *w) {
	struct timespec t = ms(w->sleep_ms);
	return nanosleep(&t, 0);
}
static int r_clock(struct worker *w) {
	struct timespec t = ms(w->sleep_ms);
	errno = clock_nanosleep(CLOCK_MONOTONIC, 0, &t, 0);
	return errno ? -1 : 0;
}
static int r_clock_abs(struct worker *w) {
	struct timespec t = from_now(CLOCK_MONOTONIC, w->sleep_ms);
	errno = clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, 0);
	return errno ? -1 : 0;
}
static int r_poll_timeout(struct worker *w) { return poll(0, 0, w->sleep_ms); }
static int r_select_timeout(struct worker *w) {
	struct timeval t = {0, w->sleep_ms * 1000};
	return select(0, 0, 0, 0, &t);
}
static int r_ppoll_timeout(struct worker *w) {
	struct timespec t = ms(w->sleep_ms);
	return ppoll(0, 0, &t, 0);
}
static int r_futex_timeout(struct worker *w) {
	struct timespec t = ms(w->sleep_ms);
	return syscall(SYS_futex, &w->word, FUTEX_WAIT, 0, &t, 0, 0) && errno == ETIMEDOUT ? 0 : -1;
}
static int r_futex_abs(struct worker *w) {
	struct timespec t = from_now(CLOCK_MONOTONIC, w->sleep_ms);
	return syscall(SYS_futex, &w->word, FUTEX_WAIT_BITSET, 0, &t, 0, ~0) && errno == ETIMEDOUT ? 0 : -1;
}
static int r_epoll_timeout(struct worker *w) {
	struct epoll_event e;
	return epoll_wait(w->id, &e, 1, w->sleep_ms);
}
static int s_full_pipe(struct worker *w) {
	int r = pipes(w);
	fcntl(w->out, F_SETPIPE_SZ, 4096);
	char page[4096] = {0};
	return r ? r : write(w->out, page, sizeof page) != sizeof page;
}
static void f_drain(struct worker *w, int i) {
	char page[4096];
	if (read(w->in, page, sizeof page) != sizeof page)
		abort();
}
static int r_write(struct worker *w) {
	char page[4096] = {0};
	return write(w->out, page, sizeof page) == sizeof page ? 0 : -1;
}
static int s_mq(struct worker *w) {
	char name[40];
	snprintf(name, sizeof name, "/heaptap-%d", getpid());
	struct mq_attr a = {.mq_maxmsg = 8, .mq_msgsize = 1};
	w->in = mq_open(name, O_RDWR | O_CREAT | O_EXCL, 0600, &a);
	mq_unlink(name);
	return w->in < 0;
}
static void f_mq(struct worker *w, int i) {
	char b = i;
	mq_send(w->in, &b, 1, 0);
}
static int r_mq(struct worker *w) { return got(w, mq_receive(w->in, (char *)&w->byte, 1, 0)); }

static volatile int finished;

static struct worker workers[] = {
	{"read", 0, pipes, r_read, feed_byte},
	{"readv", 0, pipes, r_readv, feed_byte},
	{"recv", 0, sockets, r_recv, feed_byte},
	{"recvmsg", 0, sockets, r_recvmsg, feed_byte},
	{"recv SO_RCVTIMEO", 0, timeout_sockets, r_recv, feed_byte},
	{"accept", 0, s_listen, r_accept, f_connect},
	{"poll", 0, pipes, r_poll, feed_byte},
	{"ppoll", 0, pipes, r_ppoll, feed_byte},
	{"select", 0, pipes, r_select, feed_byte},
	{"epoll_wait", 0, s_epoll, r_epoll, feed_byte},
	{"epoll_pwait", 0, s_epoll, r_epoll_pwait, feed_byte},
	{"eventfd", 0, s_eventfd, r_eventfd, f_eventfd},
	{"semop", 0, s_sem, r_semop, f_sem},
	{"semtimedop", 0, s_sem, r_semtimedop, f_sem},
	{"msgrcv", 0, s_msg, r_msg, f_msg},
	{"mq_receive", 0, s_mq, r_mq, f_mq},
	{"futex", 0, s_mutexes, r_futex, f_futex},
	{"sigtimedwait", 0, s_mutexes, r_sigwait, f_signal},
	{"write", 0, s_full_pipe, r_write, f_drain},
	{"waitpid", 0, s_mutexes, r_wait, 0},
	{"fcntl SETLKW", 0, s_mutexes, r_fcntl, 0},
	{"timerfd", 20, s_timerfd, r_timerfd, 0},
	{"nanosleep", 20, s_mutexes, r_nanosleep, 0},
	{"clock_nanosleep", 20, s_mutexes, r_clock, 0},
	{"clock_nanosleep ABSTIME", 20, s_mutexes, r_clock_abs, 0},
	{"poll timeout", 20, s_mutexes, r_poll_timeout, 0},
	{"select timeout", 20, s_mutexes, r_select_timeout, 0},
	{"ppoll timeout", 20, s_mutexes, r_ppoll_timeout, 0},
	{"futex timeout", 20, s_mutexes, r_futex_timeout, 0},
	{"futex absolute", 20, s_mutexes, r_futex_abs, 0},
	{"epoll_wait timeout*", 5, s_epoll, r_epoll_timeout, 0},
};
enum { count = sizeof workers / sizeof *workers };

static void *work(void *p) {
	struct worker *w = p;
	for (unsigned char next = 0;;) {
		double began = now();
		int r = w->round(w);
		if (r < 0) {
			if (errno == EINTR)
				w->eintr++;
			else if (!finished) {
				w->wrong++;
				perror(w->name);
			}
			continue;
		}
		if (r == 1 && w->byte != next++)
			w->wrong++;
		double took = now() - began;
		if (w->sleep_ms && took < w->sleep_ms)
			w->too_short++;
		if (took > w->longest)
			w->longest = took;
		w->rounds++;
	}
}

static void *feed_all(void *p) {
	for (int i = 0;; i++) {
		for (int k = 0; k < count; k++)
			if (workers[k].feed)
				workers[k].feed(&workers[k], i);
		usleep(feed_us);
	}
	return p;
}

int main(void) {
	sigset_t s;
	sigemptyset(&s);
	sigaddset(&s, SIGRTMIN);
	// The kernel drops an ignored SIGCHLD when a child ends, unless the thread that forked it is traced just then
	// (kernel/signal.c, sig_ignored): then another thread is woken for it, and may see EINTR. No tracer can help that.
	sigaddset(&s, SIGCHLD);
	pthread_sigmask(SIG_BLOCK, &s, 0);
	for (int k = 0; k < count; k++)
		if (workers[k].setup(&workers[k])) {
			perror(workers[k].name);
			return 1;
		}
	for (int k = 0; k < count; k++)
		pthread_create(&workers[k].thread, 0, work, &workers[k]);
	pthread_t t;
	pthread_create(&t, 0, feed_all, 0);
	puts("ready");
	fflush(stdout);
	char line[100];
	while (fgets(line, sizeof line, stdin)) {
		for (int k = 0; k < count; k++) {
			struct worker *w = &workers[k];
			printf("%s rounds %lu eintr %lu wrong %lu short %lu longest %.0f\n", w->name, w->rounds, w->eintr, w->wrong,
			       w->too_short, w->longest);
		}
		puts("end");
		fflush(stdout);
	}
	finished = 1;
	for (int k = 0; k < count; k++) {
		if (workers[k].setup == s_sem)
			semctl(workers[k].id, 0, IPC_RMID);
		if (workers[k].setup == s_msg)
			msgctl(workers[k].id, IPC_RMID, 0);
	}
	_exit(0);
}
