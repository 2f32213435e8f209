/*
 * signal.h: the tables written to a file, by a handler of one of the target's signals.
 *
 * The handler makes system calls only, and touches nothing that the code which it interrupted may be changing, so that it
 * may come at any time. The tables go on changing while they are written: what refers to something else is written
 * before it, as each is noted after what it refers to. A file that is not whole is taken away again.
 *
 * Whatever handler was there before is called afterwards, with the same arguments on the same stack; where there was
 * none, nothing is: a signal that would have ended the process does not do so.
 */

enum {
	OPEN_NEW = 01 | 0100 | 0200 | 02000000, /* O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC; the same on both CPUs */
	OPEN_READ = 02000000,
	HERE = -100, /* AT_FDCWD */
	LIMIT_FILE_SIZE = 1,
	NOT_PERMITTED = 1,
	INTERRUPTED = -4,
	EXISTS = -17,
	TOO_BIG = -27,
	NAME_TOO_LONG = -36,
	OWNER_ONLY = 0600,
	NAME_TRIES = 1000,
	WRITE_MOST = 1 << 30,
	SIG_HANDLER_FIRST = 2, /* 0 and 1 are SIG_DFL and SIG_IGN */
};
#define SIGNAL_ONCE 0x80000000ull /* SA_RESETHAND */

INLINE struct ht_outlet *outlet(void) { return (struct ht_outlet *)at(T->outlet.offset); }

/* A file that is being written. */
struct out {
	s64 fd;
	u64 at;
	u64 limit; /* beyond it, the kernel would send SIGXFSZ */
	s64 error; /* 0, or negative: nothing more is written */
};

static void out_write(struct out *o, const void *from, u64 n)
{
	const u8 *p = from;
	if (!o->error && (n > o->limit || o->at > o->limit - n))
		o->error = TOO_BIG;
	while (n && !o->error) {
		s64 done = system_call(SYS_write, (u64)o->fd, (u64)p, n < WRITE_MOST ? n : WRITE_MOST, 0, 0, 0);
		if (done == INTERRUPTED)
			continue;
		if (done <= 0) {
			o->error = done ? done : TOO_BIG;
			return;
		}
		p += done;
		n -= (u64)done;
		o->at += (u64)done;
	}
}

static void out_section(struct out *o, u64 offset, u64 length)
{
	struct ht_section s = {offset, length};
	if (!length)
		return;
	out_write(o, &s, sizeof s);
	out_write(o, at(offset), length);
}

/* The used part of a window; `as` says what is used, mostly the window itself. */
static void out_window(struct out *o, const struct ht_window *w, const struct ht_window *as, u64 entry)
{
	u64 n = LOAD_ACQUIRE(&as->next);
	out_section(o, w->offset, (n < w->entries ? n : w->entries) * entry);
}

static void out_threads(struct out *o)
{
	const u32 *slots = (const u32 *)at(T->slots.offset);
	u64 n = LOAD_ACQUIRE(&T->slots.next);
	for (u64 i = 0; i < n && i < T->slots.entries; i++) {
		u32 slot = LOAD(&slots[i]);
		if (slot && slot <= T->threads.entries)
			out_section(o, T->threads.offset + (slot - 1) * sizeof(struct ht_thread), sizeof(struct ht_thread));
	}
}

static void out_tables(struct out *o)
{
	/* Blocks refer to stats, those to nodes, those to codes, those to strings. A leaf's base is written after it. */
	out_window(o, &T->bases, &T->leaves, sizeof(u64));
	out_window(o, &T->leaves, &T->leaves, sizeof(u64) << HT_LEAF_WORDS_LOG2);
	out_window(o, &T->mappings, &T->mappings, sizeof(struct ht_mapping));
	out_window(o, &T->stats, &T->stats, sizeof(struct ht_stat));
	out_window(o, &T->others, &T->others, sizeof(struct ht_others));
	out_window(o, &T->nodes, &T->nodes, sizeof(struct ht_node));
	out_window(o, &T->slots, &T->slots, sizeof(u32));
	out_threads(o);
	out_window(o, &T->timeline, &T->timeline, sizeof(struct ht_point));
	out_window(o, &T->resident, &T->resident, sizeof(struct ht_point));
	out_window(o, &T->codes, &T->codes, sizeof(struct ht_code));
	out_window(o, &T->arena, &T->arena, 1);
	out_window(o, &T->objects, &T->objects, sizeof(struct ht_object));
	out_window(o, &T->object_names, &T->object_names, 1);
	out_section(o, T->outlet.offset, sizeof(struct ht_outlet));
	out_section(o, 0, sizeof(struct ht_tables));
}

/* Reads the beginning of a file of /proc; what is not filled is zero. */
static void slurp(const char *path, u8 *to, u64 n)
{
	u64 have = 0;
	s64 fd = system_call(SYS_openat, (u64)HERE, (u64)path, OPEN_READ, 0, 0, 0), got;
	while (fd >= 0 && have < n) {
		got = system_call(SYS_read, (u64)fd, (u64)(to + have), n - have, 0, 0, 0);
		if (got <= 0 && got != INTERRUPTED)
			break;
		have += got > 0 ? (u64)got : 0;
	}
	while (have < n)
		to[have++] = 0;
	if (fd >= 0)
		system_call(SYS_close, (u64)fd, 0, 0, 0, 0, 0);
}

/* The decimal digits of v; returns the end. */
static u8 *put_number(u8 *to, u64 v)
{
	u8 digits[20];
	u32 n = 0;
	do
		digits[n++] = (u8)('0' + v % 10);
	while (v /= 10);
	while (n)
		*to++ = digits[--n];
	return to;
}

/* Makes a file's name. Returns 0 where it would be too long. */
static int make_name(struct ht_outlet *x, u32 pid, u32 number)
{
	u8 *to = x->name, *end = x->name + sizeof x->name - 24;
	for (const u8 *p = x->pattern; *p; p++) {
		if (to >= end || p >= x->pattern + sizeof x->pattern - 1)
			return 0;
		if (*p != '%') {
			*to++ = *p;
			continue;
		}
		p++;
		if (*p == 'p')
			to = put_number(to, pid);
		else if (*p == 'n')
			to = put_number(to, number);
		else
			*to++ = '%', p -= *p != '%';
	}
	*to = 0;
	return 1;
}

static s64 open_new(struct ht_outlet *x, u32 pid)
{
	s64 fd = EXISTS;
	for (u32 i = 0; i < NAME_TRIES && fd == EXISTS; i++) {
		u32 number = x->next++;
		if (!make_name(x, pid, number))
			return NAME_TOO_LONG;
		fd = system_call(SYS_openat, (u64)HERE, (u64)x->name, OPEN_NEW, OWNER_ONLY, 0, 0);
	}
	return fd;
}

static void write_file(struct ht_outlet *x, u32 pid, int number)
{
	struct ht_file_head f = {.magic = HT_FILE_MAGIC, .fingerprint = T->fingerprint, .size = T->size, .pid = pid, .signal = (u32)number};
	struct time_of_day now;
	u64 limits[2];
	struct out o = {.limit = ~0ull};
	if (!system_call(SYS_prlimit64, 0, LIMIT_FILE_SIZE, 0, (u64)limits, 0, 0))
		o.limit = limits[0];
	f.seconds = seconds_now();
	if (x->may & HT_OUTLET_CLOCK && !system_call(SYS_clock_gettime, 0, (u64)&now, 0, 0, 0, 0))
		f.time = (u64)now.seconds * 1000000000 + (u64)now.nanoseconds;
	if (x->may & HT_OUTLET_READ) {
		slurp("/proc/self/statm", x->statm, sizeof x->statm);
		slurp("/proc/self/cmdline", x->command, sizeof x->command);
	}
	o.fd = open_new(x, pid);
	o.error = o.fd < 0 ? o.fd : 0;
	if (!o.error) {
		out_write(&o, &f, sizeof f);
		out_tables(&o);
		f.complete = 1;
		while (!o.error) {
			s64 done = system_call(SYS_pwrite64, (u64)o.fd, (u64)&f, sizeof f, 0, 0, 0);
			if (done == (s64)sizeof f)
				break;
			if (done != INTERRUPTED)
				o.error = done < 0 ? done : TOO_BIG;
		}
		system_call(SYS_close, (u64)o.fd, 0, 0, 0, 0, 0);
		if (o.error)
			system_call(SYS_unlinkat, (u64)HERE, (u64)x->name, 0, 0, 0, 0);
	}
	STORE(&x->error, (s32)-o.error);
	STORE(&x->bytes, o.at);
	STORE(o.error ? &x->failed : &x->written, LOAD(o.error ? &x->failed : &x->written) + 1);
}

/* Writes a file where that can be done, and returns the handler that is to be called afterwards, or 0. */
__attribute__((used, noinline, visibility("hidden"))) u64 ht_signal_write(int number)
{
	struct ht_outlet *x = outlet();
	int ours = LOAD(&ht_flag.active) != 0;
	if (ours) {
		if (LOAD(&T->filtered)) { /* for a write it may be killed; see filter.h */
			__atomic_fetch_add(&x->failed, 1, __ATOMIC_RELAXED);
			STORE(&x->error, NOT_PERMITTED);
		}
		/* A child by vfork has its parent's memory, and so its flag. */
		u32 pid = (u32)system_call(SYS_getpid, 0, 0, 0, 0, 0, 0), is = LOAD(&x->busy);
		if (pid == CFG->pid) {
			if (is != pid && __atomic_compare_exchange_n(&x->busy, &is, pid, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED)) {
				write_file(x, pid, number);
				__atomic_store_n(&x->busy, 0, __ATOMIC_RELEASE);
			} else {
				__atomic_fetch_add(&x->passed, 1, __ATOMIC_RELAXED);
			}
		}
	}
	u64 handler = LOAD(&x->old.handler);
	if (handler < SIG_HANDLER_FIRST)
		return 0;
	/* The kernel would have forgotten it by now. */
	if (ours && x->old.flags & SIGNAL_ONCE)
		handler = __atomic_exchange_n(&x->old.handler, 0, __ATOMIC_RELAXED);
	return handler < SIG_HANDLER_FIRST ? 0 : handler;
}
