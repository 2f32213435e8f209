/*
 * signal.h: the tables in a file, as a handler of a signal writes them. The tables are those of fill.h; the first file is
 * for the Go reader.
 */
#include <errno.h>
#include <signal.h>
#include <sys/resource.h>

static volatile u32 chained;

static void chain_counts(int number, void *info, void *context)
{
	CHECK(number == SIGUSR2 && info && context, "signal %d", number);
	chained++;
}

/* Sends the signal, whose handler is the agent's, and wants a file or, for an error, none. */
static void signal_gives(s32 error)
{
	struct ht_outlet *x = outlet();
	u32 written = x->written, failed_before = x->failed;
	raise(SIGUSR2);
	CHECK(x->error == error && x->written == written + !error && x->failed == failed_before + !!error && !x->busy,
	      "error %d, %u written, %u failed", x->error, x->written, x->failed);
	if (error != ENAMETOOLONG)
		CHECK((access((char *)x->name, R_OK) == 0) == !error || error == ENOENT, "%s, error %d", x->name, error);
}

static void pattern_is(const char *path, const char *ending)
{
	snprintf((char *)outlet()->pattern, HT_PATTERN_BYTES, "%s%s", path, ending);
}

static void name_is(const char *pattern, const char *want)
{
	struct ht_outlet *x = outlet();
	pattern_is("", pattern);
	CHECK(make_name(x, 4711, 0) && !strcmp((char *)x->name, want), "%s gives %s", pattern, x->name);
}

static void signal_file(const char *path)
{
	fill(path);
	int fd = open(path, O_RDWR);
	void *p = mmap(T, (u64)lseek(fd, 0, SEEK_END), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
	CHECK(p == T, "map %s", path);
	struct ht_outlet *x = outlet();
	name_is("a", "a");
	name_is("x-%p-%n.y", "x-4711-0.y");
	name_is("%%p", "%p");
	name_is("%x%", "%x%");
	memset(x->pattern, '%', sizeof x->pattern); /* without an end */
	CHECK(!make_name(x, ~0u, ~0u), "a name without an end");
	for (u32 i = 0; i < sizeof x->pattern; i += 2)
		x->pattern[i] = '%', x->pattern[i + 1] = i + 2 < sizeof x->pattern ? 'p' : 0;
	CHECK(!make_name(x, ~0u, ~0u), "a name that is too long");

	x->signal = SIGUSR2;
	x->may = HT_OUTLET_CLOCK | HT_OUTLET_READ;
	CFG->pid = (u32)getpid();
	extern void ht_on_signal(void), ht_signal_restore(void);
	struct ht_sigaction ours = {(u64)ht_on_signal, 0x04000000 | SA_SIGINFO, (u64)ht_signal_restore, 0};
	CHECK(!syscall(SYS_rt_sigaction, SIGUSR2, &ours, &x->old, 8), "rt_sigaction: %d", errno);
	CHECK(x->old.handler == 0, "handler %#llx", x->old.handler);

	pattern_is(path, ".%n");
	signal_gives(0);
	/* A handler that was there before is called, and one that wants to be called once is called once. */
	x->old.handler = (u64)chain_counts;
	signal_gives(0);
	signal_gives(0);
	x->old.flags = SA_RESETHAND;
	signal_gives(0);
	signal_gives(0);
	CHECK(chained == 3 && x->next == 5, "%u calls, number %u", chained, x->next);
	/* A name that exists is passed over. */
	x->next = 0;
	signal_gives(0);
	CHECK(x->next == 6, "number %u", x->next);
	/* Another thread is writing; a file left behind by another process's is not in the way. */
	x->busy = CFG->pid;
	raise(SIGUSR2);
	CHECK(x->passed == 1 && x->written == 6 && x->busy == CFG->pid, "%u passed", x->passed);
	x->busy = 1;
	signal_gives(0);
	/* Where nothing can be written nothing is left. */
	pattern_is(path, "/in/a/file");
	signal_gives(ENOTDIR);
	pattern_is(path, ".no/such/folder");
	signal_gives(ENOENT);
	pattern_is(path, ".full.%n");
	struct rlimit little = {100000, 100000}, before;
	CHECK(!getrlimit(RLIMIT_FSIZE, &before), "limits");
	little.rlim_max = before.rlim_max;
	CHECK(!setrlimit(RLIMIT_FSIZE, &little), "limits");
	signal_gives(EFBIG); /* and no SIGXFSZ */
	CHECK(!setrlimit(RLIMIT_FSIZE, &before), "limits");
	/* In a child, whose flag page is wiped, and in one by vfork, whose pid is another. */
	x->old.handler = (u64)chain_counts, x->old.flags = 0;
	chained = 0;
	u32 written = x->written;
	ht_flag.active = 0;
	raise(SIGUSR2);
	ht_flag.active = 1;
	CFG->pid++;
	raise(SIGUSR2);
	CFG->pid--;
	CHECK(chained == 2 && x->written == written, "%u calls, %u written, not %u", chained, x->written, written);
	x->old.handler = 1; /* ignored */
	pattern_is(path, ".last");
	signal_gives(0);
}
