/* depth.h: calls that are left otherwise than by their return, and handlers that only look as if they were. */

#include <setjmp.h>
#include <signal.h>

enum { DEEP_BASE = 0x7d0000000000 };

static jmp_buf away;
static u32 deep_calls;
static u64 deep_live; /* blocks that must have been counted */

static void *leaving(void *ctx, u64 size)
{
	(void)ctx, (void)size;
	longjmp(away, 1);
}

static void *staying(void *ctx, u64 size)
{
	(void)ctx, (void)size;
	return (void *)(DEEP_BASE + 64ull * deep_calls++);
}

/* Writes over what calls have left behind. */
__attribute__((noinline, no_sanitize("address", "undefined"))) static void write_over(void)
{
	volatile u8 room[8192];
	for (u32 i = 0; i < sizeof room; i++)
		room[i] = (u8)i;
}

/* Calls the hook from so many frames further down, each of some size. */
__attribute__((noinline)) static void *deeper(u32 frames)
{
	volatile u8 room[256];
	room[1] = 1;
	void *p = frames ? deeper(frames - 1) : ht_raw_malloc(0, 10);
	room[0] = room[1];
	return p;
}

static void expect_deep(const char *what)
{
	struct ht_count c = sum_counts(HT_RAW);
	CHECK(c.alloc_blocks == deep_live, "%s: %llu blocks are counted, not %llu", what, c.alloc_blocks, deep_live);
}

__attribute__((noinline)) static void call_at(u32 frames, void *(*original)(void *, u64))
{
	T->original[HT_RAW][HT_MALLOC] = (u64)original;
	if (!setjmp(away))
		deeper(frames);
	T->original[HT_RAW][HT_MALLOC] = (u64)staying;
}

/* A call of the allocator is left from so many frames further down. */
__attribute__((noinline)) static void leave_at(u32 frames)
{
	call_at(frames, leaving);
	CHECK(thread_self()->depth, "left, and nothing to be seen of it");
}

static void *leave_and_end(void *arg)
{
	(void)arg;
	leave_at(3);
	return 0;
}

static void *count_one(void *arg)
{
	deeper(0);
	return arg;
}

static void test_depth_left(void)
{
	tables((struct plan){0});
	CFG->may_look = 1;
	deep_live = deep_calls = 0;
	static const u32 depths[][2] = {{4, 4}, {4, 2}, {4, 0}, {0, 0}, {9, 1}};
	for (u32 i = 0; i < sizeof depths / sizeof *depths; i++) {
		leave_at(depths[i][0]);
		deeper(depths[i][1]);
		deep_live++;
		expect_deep("not as deep as the call that was left");
		CHECK(!thread_self()->depth, "depth %#llx", thread_self()->depth);
	}
	/* All further down: what it was left in is written over by others, which is seen after some calls. */
	leave_at(0);
	write_over();
	u32 seen = 0;
	for (u32 i = 0; i < 2 * DOUBTS && !seen; i++) {
		deeper(20);
		seen = !thread_self()->depth;
	}
	CHECK(seen, "never seen further down");
	deep_live++;
	expect_deep("further down");
	/* Without the system calls that it takes, only the same place is certain. */
	CFG->may_look = 0;
	call_at(4, leaving);
	deeper(1);
	expect_deep("nothing to go by");
	call_at(4, staying);
	deep_live++;
	expect_deep("the same place");
	/* A thread that has the record, and mostly the stack, of one that ended so. */
	CFG->may_look = 1;
	for (u32 i = 0; i < 20; i++) {
		pthread_t thread;
		CHECK(!pthread_create(&thread, 0, leave_and_end, 0) && !pthread_join(thread, 0), "thread");
		CHECK(!pthread_create(&thread, 0, count_one, 0) && !pthread_join(thread, 0), "thread");
		deep_live++;
	}
	expect_deep("in threads");
}

static void *raising(void *ctx, u64 size)
{
	T->original[HT_RAW][HT_MALLOC] = (u64)staying;
	raise(SIGUSR1);
	CHECK(thread_self()->depth, "a handler took the depth of the call that it interrupted");
	return staying(ctx, size);
}

static u32 handled;

static void allocates(int number)
{
	(void)number;
	for (u32 i = 0; i < 3 * DOUBTS; i++)
		deeper(i % 5);
	handled++;
}

__attribute__((noinline)) static void interrupt_at(u32 frames)
{
	T->original[HT_RAW][HT_MALLOC] = (u64)raising;
	deeper(frames);
	deep_live++;
	CHECK(!thread_self()->depth, "depth %#llx", thread_self()->depth);
}

/* What a handler allocates within a call that it interrupted is nested, on whatever stack it runs. */
static void test_depth_handlers(void)
{
	tables((struct plan){0});
	CFG->may_look = 1;
	deep_live = deep_calls = handled = 0;
	enum { SIGNAL_STACK = 256 << 10 };
	u8 above[SIGNAL_STACK]; /* part of the very stack, outside of the call */
	u8 *apart = mmap(0, SIGNAL_STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	u8 *const stacks[] = {0, above, apart};
	for (u32 i = 0; i < 3; i++) {
		stack_t on = {.ss_sp = stacks[i], .ss_size = SIGNAL_STACK, .ss_flags = stacks[i] ? 0 : SS_DISABLE};
		struct sigaction act = {.sa_handler = allocates, .sa_flags = SA_ONSTACK};
		CHECK(!sigaltstack(&on, 0) && !sigaction(SIGUSR1, &act, 0), "signal stack");
		for (u32 frames = 0; frames < 10; frames += 3)
			interrupt_at(frames);
		expect_deep("in a handler");
	}
	CHECK(handled == 12, "%u signals", handled);
	stack_t off = {.ss_flags = SS_DISABLE};
	sigaltstack(&off, 0);
	munmap(apart, SIGNAL_STACK);
}
