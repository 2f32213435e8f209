/*
 * abi.h: the tables that the agent writes inside the target and that heaptap reads from outside.
 *
 * This header is the only definition of their layout: the Go side is generated from the compiler's own type
 * information (DWARF) of the built agent. Every struct has explicit padding and an asserted size.
 *
 * Memory map, from the address at which the tracer placed the image:
 *
 *   TEXT_OFFSET     code and constants, r-x, private
 *   FLAG_OFFSET     one page, rw, private, MADV_WIPEONFORK: zero in a forked child
 *   TABLES_OFFSET   struct ht_tables and behind it the windows that it names, rw, shared
 *
 * Concurrency: a struct ht_thread, the nodes below its root and its hash table are written by that thread only. Words
 * of the live map are single 8-byte stores. What is shared (bump counters, code table) says how it is guarded.
 */
#ifndef HT_ABI_H
#define HT_ABI_H

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef signed char s8;
typedef int s32;
typedef long long s64;

#define HT_ASSERT_SIZE(type, size) _Static_assert(sizeof(type) == (size), #type " has another size")

/* The tracer and linker script share these. */
enum {
	HT_TEXT_OFFSET = 0,
	HT_FLAG_OFFSET = 0x20000,
	HT_TABLES_OFFSET = 0x100000,
};

enum { HT_MAGIC = 0x7061747061656821ull }; /* "!heaptap" */

/* ---- live map: one word for each granule (16 bytes, or 8) of address space ---------------------------------------
 *
 * root[address >> root_shift] -> mid number; mid[..] -> leaf number; leaf[..] -> word. A block's word stands at its
 * first granule. A size that does not fit stands in the next granule's word, which such a block always owns.
 */
enum {
	HT_STACK_BITS = 25, /* bits  0..24 stat number */
	HT_SIZE_SHIFT = 25, /* bits 25..36 requested size, or HT_SIZE_BIG */
	HT_SIZE_BITS = 12,
	HT_EPOCH_SHIFT = 37, /* bits 37..58, see ht_config.clock */
	HT_EPOCH_BITS = 22,
	HT_DOMAIN_SHIFT = 59, /* bits 59..61 */
	HT_DOMAIN_BITS = 3,
	HT_CODE_BIT = 62, /* a known code object stands here: its free retires it */
	HT_LIVE_BIT = 63,

	HT_SIZE_BIG = (1 << HT_SIZE_BITS) - 1,
	HT_LEAF_WORDS_LOG2 = 9, /* a leaf is one page */
	HT_MID_ENTRIES_LOG2 = 16, /* large, so that the root is small: only what is used of either is there */
	HT_ADDRESS_BITS = 47,
};

/* Epochs count seconds up to HT_EPOCH_FINE, then steps of HT_EPOCH_COARSE seconds, then stay at the last. */
enum {
	HT_EPOCH_FINE = 1 << 21, /* 24 days */
	HT_EPOCH_COARSE = 16,
	HT_EPOCH_LAST = (1 << HT_EPOCH_BITS) - 1,
};

/* CPython's domains; then malloc's family, anonymous mappings, and mappings of files. */
enum {
	HT_RAW,
	HT_MEM,
	HT_OBJ,
	HT_PYTHON_DOMAINS,
	HT_NATIVE = HT_PYTHON_DOMAINS,
	HT_MAPPED,
	HT_FILE,
	HT_DOMAINS,
	HT_DOMAIN_SLOTS = 8,
};
enum { HT_MALLOC, HT_CALLOC, HT_REALLOC, HT_FREE, HT_FUNCTIONS };

/* Functions whose GOT slots are hooked. Some have other names too (memalign, mmap64, operator new). */
enum {
	HT_N_MALLOC,
	HT_N_CALLOC,
	HT_N_REALLOC,
	HT_N_REALLOCARRAY,
	HT_N_FREE,
	HT_N_POSIX_MEMALIGN,
	HT_N_ALIGNED_ALLOC, /* and memalign */
	HT_N_VALLOC,
	HT_N_PVALLOC,
	HT_N_FREE_SIZED,
	HT_N_FREE_ALIGNED_SIZED,
	HT_N_MMAP, /* and mmap64 */
	HT_N_MUNMAP,
	HT_N_MREMAP,
	HT_N_DLOPEN,
	HT_N_DLMOPEN,
	HT_N_DLCLOSE,
	HT_N_DLSYM, /* what follows dlopen: changes nothing, but is the thread's first call from behind it */
	HT_N_DLVSYM,
	HT_N_SIGACTION, /* the first thing that an interpreter asks of libc when it ends; see ending.h */
	HT_N_PRCTL, /* what sets a seccomp filter; see filter.h */
	HT_N_SYSCALL,
	HT_NATIVE_FUNCTIONS,
	HT_NATIVE_VARIANTS = 4, /* of a function: another libc in a namespace of its own, another allocator */
};

/* A part of the tables: `entries` of some size from `offset` on; `next` is the first not taken. */
struct ht_window {
	u64 offset;  /* from the start of the tables, page aligned */
	u64 entries; /* capacity */
	u64 next;    /* bump counter, atomic (bases have none: they go with leaves) */
	u32 first;   /* what next was when the window was empty */
	u32 kept;    /* bytes of an entry, in a window that a followed child begins with as it is; 0: it begins empty */
};
HT_ASSERT_SIZE(struct ht_window, 32);

/* ---- stacks --------------------------------------------------------------------------------------------------- */

/* A node of the stack trie. The way to the root is a stack, innermost frame first. */
struct ht_node {
	u32 parent; /* node number; 0 for a thread's root */
	u32 code;   /* code number, or HT_CODE_… */
	s32 instr;  /* where in the code, as ht_config.instr_kind says; HT_INSTR_NONE before the first */
	u32 next;   /* hash chain */
	u32 stat;   /* stat number; 0: nothing was allocated at this very stack */
};
HT_ASSERT_SIZE(struct ht_node, 20);

/*
 * Codes that are no code object: a thread's root, whose instr is its number; frames that were not kept; a code object
 * that has no record; and a domain, which is instr. The last is no frame: its node has the stack of its parent, and
 * keeps apart the blocks of a domain that come and go without the GIL.
 */
enum {
	HT_CODE_NONE,
	HT_CODE_ROOT,
	HT_CODE_CUT,
	HT_CODE_UNKNOWN,
	HT_CODE_DOMAIN,
	HT_CODE_FIRST,
};

/*
 * A native frame's code: this bit and the number of its ht_object. Its instr is the address within the object as its
 * file has it (less the load bias), of the calling instruction's last byte; of one that a signal interrupted, its first.
 */
enum { HT_CODE_OBJECT = 0x80000000u };

/* Of HT_CODE_CUT: why frames are missing. */
enum {
	HT_CUT_DEPTH,  /* more than are kept */
	HT_CUT_NATIVE, /* native frames: where the next one is, nothing tells */
};

/*
 * What was allocated at the very stack of a node, since tracking began. Most nodes have none. Scaled by
 * 2^HT_SCALE_BITS when sampled. Those of a domain's node are changed under no lock: by the thread whose node it is here,
 * by others in an ht_others. What several threads free at one instant is counted, but a reader may see it half done.
 */
struct ht_stat {
	u64 alloc_blocks;
	u64 alloc_bytes;
	u64 freed_blocks;
	u64 freed_bytes;
	u64 peak_blocks; /* live at the peak of this number; at a later one, what is live now */
	u64 peak_bytes;
	u32 peak; /* the number's low half: a stat can only be taken for one of this peak after 2^32 others */
	u32 node;
	u32 owner;  /* the root of the thread whose node it is */
	u32 others; /* number of its ht_others; 0: none yet */
};
HT_ASSERT_SIZE(struct ht_stat, 64);

/* Of a stat, what few have. */
struct ht_others {
	u64 freed_blocks; /* of a domain's node, by other threads than its own; atomic */
	u64 freed_bytes;
	u64 temporary; /* blocks freed within ht_config.temporary allocations of their thread; atomic */
	u64 reserved;
};
HT_ASSERT_SIZE(struct ht_others, 32);

enum { HT_SCALE_BITS = 10 };

/* A point of a timeline. */
struct ht_point {
	u32 epoch;
	u32 pad;
	u64 bytes;
};
HT_ASSERT_SIZE(struct ht_point, 16);

/* A string copied from the target: the raw character data of a str, or a bytes object's bytes. */
struct ht_blob {
	u64 offset; /* from the start of the tables */
	u32 length; /* characters (str) or bytes */
	u8 kind;    /* bytes per character; 0: absent */
	u8 cut;     /* it was longer than heaptap copies */
	u16 pad;
};
HT_ASSERT_SIZE(struct ht_blob, 16);

/* A code object as first seen. Its record outlives it; equal code objects share one. 104 bytes. */
struct ht_code {
	u64 hash;
	u32 next; /* chain of equal hashes */
	s32 first_line;
	s32 first_traceable; /* byte offset: before it, a frame is not complete */
	u32 pad;
	struct ht_blob file;
	struct ht_blob name;
	struct ht_blob qualname;
	struct ht_blob lines;
	u64 reserved[2];
};
HT_ASSERT_SIZE(struct ht_code, 104);

/* Pointer to code number, open addressing; address 0 free, 1 a retired entry. */
struct ht_code_slot {
	u64 address;
	u32 code;
	u32 pad;
};
HT_ASSERT_SIZE(struct ht_code_slot, 16);

/* One frame of a thread's last walk. */
struct ht_frame {
	u64 frame;
	u64 code;
	u64 instr;
	u32 node;
	u32 code_number; /* HT_CODE_NONE: not a Python frame, its node is its caller's */
};
HT_ASSERT_SIZE(struct ht_frame, 32);

/* ---- native stacks ---------------------------------------------------------------------------------------------
 *
 * Of a walk, outermost first; see hybrid.h. What modules there are, and how to unwind them, is written by the tracer
 * only: new modules make a new ht_modules, and its offset is published by one store.
 */
struct ht_native_frame {
	u64 slot; /* where on the stack the address stands that leads back into the frame */
	u64 pc;   /* that address */
	u64 fp;   /* the frame's RBP */
	u32 node;
	u16 python; /* Python frames up to here: those that stand in this frame's place are the last of them */
	u8 flags;   /* of hybrid.h */
	s8 saved;   /* where it saved its caller's RBP: words from the slot of its caller's address */
};
HT_ASSERT_SIZE(struct ht_native_frame, 32);

/* A loaded object: what outlives its being loaded. */
struct ht_object {
	struct ht_blob path;
	struct ht_blob build_id; /* bytes */
};
HT_ASSERT_SIZE(struct ht_object, 32);

/* An object where it is loaded, and its rows: as package unwind has them. */
struct ht_module {
	u64 start;
	u64 end;
	u64 bias;
	u64 rows; /* offset from the tables of ht_row[row_count] */
	u32 row_count;
	u32 object;
	u64 dynamic; /* address of the dynamic section, by which the loader's list has it; 0: not in that list */
};
HT_ASSERT_SIZE(struct ht_module, 48);

struct ht_row {
	u32 start; /* from the module's */
	u32 rule;
};
HT_ASSERT_SIZE(struct ht_row, 8);

struct ht_modules {
	u32 count;
	u32 generation; /* another for each that is published, from 1 on */
	/* struct ht_module[count], ascending */
};
HT_ASSERT_SIZE(struct ht_modules, 8);

/* What was found out about a place in code, by the hash of its address. Written by any thread at any time. */
struct ht_place {
	u64 check; /* the address xor value: anything else is half written */
	u64 value; /* rule << 32 | number of the module << 16 | generation's low half */
};
HT_ASSERT_SIZE(struct ht_place, 16);
enum { HT_PLACES_LOG2 = 14 };

/* How an evaluation's outermost Python frame is known. */
enum {
	HT_ENTRY_EACH, /* each Python frame has an evaluation of its own */
	HT_ENTRY_FLAG, /* the byte at entry_flag is set */
	HT_ENTRY_SHIM, /* its caller is a shim, which stands in the evaluation's native frame */
};
enum { HT_EVALUATIONS = 8 };

struct ht_stacks {
	u64 modules; /* offset of struct ht_modules from the tables; 0: none yet */
	u64 main_low; /* where the first thread's stack may be */
	u64 main_high;
	u64 evaluation[HT_EVALUATIONS][2]; /* code of the evaluation function: [start, end), but for HT_ENTRY_SHIM */
	u32 entry_kind;
	u32 entry_flag;
	u32 capacity; /* native frames of a walk */
	u32 may_read; /* process_vm_readv */
	u64 reserved[4];
};
HT_ASSERT_SIZE(struct ht_stacks, 200);

/* ---- threads ---------------------------------------------------------------------------------------------------- */

struct ht_count {
	u64 alloc_blocks;
	u64 alloc_bytes;
	u64 freed_blocks;
	u64 freed_bytes;
};
HT_ASSERT_SIZE(struct ht_count, 32);

enum { HT_TEMPORARY_MOST = 8 };

/* Of a stack, the stat of a domain's blocks: what was found last. */
struct ht_memo {
	u32 node;
	u32 stat; /* 0: nothing */
};
HT_ASSERT_SIZE(struct ht_memo, 8);

/* A thread that has allocated, found by its thread pointer. A record whose thread has ended may serve another. */
struct ht_thread {
	u64 pointer; /* thread pointer; 0: free */
	u64 tstate;  /* last thread state seen, to notice a new thread at an old address */
	u64 tstate_id;
	u64 depth;   /* frame of the hook that has called an allocator: what that calls is not counted again; 0: none has */
	u64 depth_back; /* that frame's return address */
	u32 root;    /* node */
	u32 frames;  /* of the last walk */
	u32 code_generation;
	u32 pad;
	u64 nodes_next; /* node numbers taken and not used yet: [next, end) */
	u64 nodes_end;
	u64 buckets; /* offset from the tables of u32[bucket_mask + 1], node numbers */
	u32 bucket_mask;
	u32 node_count;
	s64 until_sample; /* bytes */
	u64 random;
	u32 tid;   /* in the target's pid namespace; 0: not known */
	u32 lives; /* threads that this record served */
	char name[16];
	u64 unseen_frees;
	u64 lost;
	u64 nested; /* allocations within allocators, which are not counted */
	struct ht_count count[HT_DOMAIN_SLOTS];
	u64 recent_next;
	u64 recent[HT_TEMPORARY_MOST]; /* the last blocks allocated, at recent_next % HT_TEMPORARY_MOST the oldest */
	u64 own_scope;    /* the thread is counted in ht_tables.own_scope */
	u64 loader_stack; /* the frame in which the thread last called the loader; 0: nothing is to be looked at */
	u64 loader_back;  /* its return address */
	u64 live_other;   /* bytes by which it has changed ht_tables.live_other, and has not said so yet */
	u64 stack_low; /* of its stack so much is known to be there; high 0: nothing */
	u64 stack_high;
	u32 natives; /* native frames of the last walk */
	u32 native_generation;
	u32 native_base; /* node of what is outside of them */
	u32 native_end;  /* HT_CUT_… + 1, or 0: they go to the thread's first function */
	u32 native_left; /* Python frames outside of them */
	u32 native_pad;
	struct ht_memo memo[2]; /* of raw blocks, and of malloc's */
	u64 frames_at;          /* offset from the tables of two ht_frame[frame_capacity]: last walk and workspace */
	u64 natives_at;         /* the same of two ht_native_frame[stacks.capacity] */
	u64 reserved[7];
};
HT_ASSERT_SIZE(struct ht_thread, 640);

/* ---- what the tracer tells the agent ---------------------------------------------------------------------------- */

enum { HT_INSTR_INDEX, HT_INSTR_POINTER };
enum { HT_TSTATE_FUNCTION, HT_TSTATE_VARIABLE, HT_TSTATE_LOCAL };

/*
 * The interpreter's layout as data. Offsets are bytes. The agent has no other knowledge of versions.
 */
struct ht_config {
	u64 current_tstate; /* the thread state that holds the GIL, perhaps another thread's, or NULL: as tstate_kind says */
	u64 this_tstate;    /* function: this thread's own state, or NULL */
	u64 code_type;      /* address of PyCode_Type */
	u64 clock_word;     /* where the kernel keeps CLOCK_MONOTONIC_COARSE's seconds in the vvar page, or 0 */
	u64 clock;          /* else the vDSO's clock_gettime, or 0: ages are not known */
	u64 clock_base;     /* CLOCK_MONOTONIC_COARSE seconds at epoch 0 */
	u64 sample_bytes;   /* mean distance of samples; 0: every block */
	u64 code_mask;      /* bits of the frame's code word that are the pointer */
	u64 instr_mask;     /* bits of the 8 bytes at frame_instr that are it */

	u32 granule_log2; /* 4, or 3 where the allocator aligns to 8 */
	u32 tstate_kind;  /* HT_TSTATE_…: current_tstate is a function, a variable's address, an offset from the TP */
	u32 nested_above; /* object requests larger than this are passed on to the raw domain */
	u32 tstate_frame; /* frame, or cframe */
	s32 cframe_frame; /* in the cframe: current frame; -1: tstate_frame is the frame itself */
	u32 tstate_thread_id;
	s32 tstate_id; /* -1: has none */

	u32 frame_previous;
	u32 frame_code;
	u32 frame_instr;
	s32 frame_owner; /* -1: has none */
	u32 owner_generator;
	u32 owner_skip;    /* owners from here on are no Python frames */
	u32 instr_kind;    /* HT_INSTR_… */

	u32 code_file;
	u32 code_name;
	s32 code_qualname;        /* -1: has none */
	s32 code_first_traceable; /* -1: has none */
	u32 code_first_line;
	u32 code_lines;
	u32 code_bytes; /* the instructions, for HT_INSTR_POINTER */

	u32 str_length;
	u32 str_state;
	u32 str_kind_shift; /* bit position of the 3-bit kind in the u32 at str_state */
	u32 str_compact_bit;
	u32 str_ascii_bit;
	u32 str_ascii_data;
	u32 str_compact_data;
	u32 str_pointer_data;
	u32 bytes_length;
	u32 bytes_data;
	u32 object_type;

	u32 may_gettid; /* system calls that seccomp lets through */
	u32 may_tgkill;
	u32 may_prctl;
	u32 pid; /* in the target's pid namespace */
	u32 temporary; /* a block is temporary that is freed within so many allocations; 0: none is */
	u32 may_write; /* process_vm_readv, process_vm_writev and mprotect */
	u32 follow;    /* a forked child gets tables of its own, see fork.h */
	u32 may_look;  /* process_vm_readv and sigaltstack */
	u64 reserved[7];
};
HT_ASSERT_SIZE(struct ht_config, 288);

/* What the tracer found, for readers that come when the target has gone. */
struct ht_python {
	u32 version;     /* major, minor, micro: a byte each from the top; then level and serial */
	u32 flavour;     /* 0 static, 1 shared, 2 embedded */
	u32 line_format; /* of ht_code.lines, numbered as package cpython does */
	u32 instr_unit;  /* bytes for one step of ht_node.instr */
	u64 module_base;
	u64 reserved[5];
};
HT_ASSERT_SIZE(struct ht_python, 64);

/* A hooked word: written here before it is written there, so that any later heaptap can put it back. */
struct ht_ledger {
	u64 address;
	u64 old;
	u64 new;
	u32 kind; /* HT_LEDGER_… */
	u32 what; /* domain << 8 | function */
};
HT_ASSERT_SIZE(struct ht_ledger, 32);
enum { HT_LEDGER_FREE, HT_LEDGER_ALLOCATOR, HT_LEDGER_SLOT };
enum { HT_LEDGER_ENTRIES = 92 };

/* Under what name a function is imported: the name's hash, see name_hash. */
struct ht_name {
	u64 hash;
	u32 function;
	u32 usual; /* 1 + the variant before what the process's own scope binds it to; 0: nothing */
};
HT_ASSERT_SIZE(struct ht_name, 16);
enum { HT_NAMES = 64 };

/* A mapping that the target made, or what is left of it. */
struct ht_mapping {
	u64 start;
	u64 end;
	u32 stat;
	u32 epoch;
	u32 domain;
	u32 pad;
};
HT_ASSERT_SIZE(struct ht_mapping, 32);

/* A loaded module, as the loader knows it. */
struct ht_loaded {
	u64 map;     /* its struct link_map */
	u64 dynamic; /* its dynamic section */
	u32 look;    /* the look that saw it last */
	u16 again;   /* some of its slots were not bound: look at it again */
	u16 own;     /* it may be bound otherwise than the process's own scope is */
};
HT_ASSERT_SIZE(struct ht_loaded, 24);

/* The bytes [start, end) of the address space. */
struct ht_range {
	u64 start;
	u64 end;
};
HT_ASSERT_SIZE(struct ht_range, 16);

/* As rt_sigaction(2) has it, on both CPUs. */
struct ht_sigaction {
	u64 handler;
	u64 flags;
	u64 restorer;
	u64 mask;
};
HT_ASSERT_SIZE(struct ht_sigaction, 32);

enum { HT_OUTLET_NONE, HT_OUTLET_PLANNED, HT_OUTLET_SET };
enum { HT_OUTLET_CLOCK = 1, HT_OUTLET_READ = 2 };
enum { HT_PATTERN_BYTES = 1024, HT_STATM_BYTES = 128, HT_COMMAND_BYTES = 1024 };

/* The signal upon which the tables are written to a file; see signal.h. */
struct ht_outlet {
	u32 state;  /* HT_OUTLET_…, of the tracer: the disposition is ours only when it says SET */
	u32 signal; /* 0: none */
	u32 busy;   /* the pid whose thread is writing */
	u32 next;   /* number of the next file */
	u32 written;
	u32 failed;
	u32 passed; /* signals that came while a file was being written, and gave none */
	s32 error;  /* errno of the last that failed; 0: none did since the last that was written */
	u32 may;    /* HT_OUTLET_CLOCK and so on: system calls that can be done without, and that seccomp lets through */
	u32 pad;
	u64 bytes;  /* of the last file */
	struct ht_sigaction old; /* what was there before, and goes on to be called */
	u8 pattern[HT_PATTERN_BYTES]; /* of the files' names: %p is the pid, %n a number, %% a percent sign */
	u8 name[HT_PATTERN_BYTES + 64]; /* of the last file */
	u8 statm[HT_STATM_BYTES];       /* /proc/self/statm then */
	u8 command[HT_COMMAND_BYTES];   /* /proc/self/cmdline then */
};
HT_ASSERT_SIZE(struct ht_outlet, 3344);

/*
 * Such a file: this, then sections, each a piece of the tables as they stood at `offset`, the last of them the tables'
 * header. The windows in it may say more than was written, since others went on.
 */
struct ht_file_head {
	u64 magic; /* HT_FILE_MAGIC */
	u64 fingerprint;
	u64 size;     /* of the tables */
	u64 time;     /* CLOCK_REALTIME, nanoseconds; 0: not known */
	u64 seconds;  /* of the age clock */
	u32 pid;      /* in the target's pid namespace */
	u32 signal;
	u32 complete; /* 1, written last */
	u32 pad;
	u64 reserved;
};
HT_ASSERT_SIZE(struct ht_file_head, 64);
enum { HT_FILE_MAGIC = 0x6c62617470616568ull }; /* "heaptabl" */

struct ht_section {
	u64 offset; /* from the start of the tables */
	u64 length;
};
HT_ASSERT_SIZE(struct ht_section, 16);

/* Where a tracer and the kernel pass things to each other, in the flag page: two ht_sigaction. */
enum { HT_SCRATCH_OFFSET = HT_FLAG_OFFSET + 2048 };

enum { HT_STATE_EMPTY, HT_STATE_HOOKING, HT_STATE_TRACKING, HT_STATE_UNHOOKING, HT_STATE_PASSIVE };

struct ht_tables {
	u64 magic;
	u64 fingerprint; /* of the agent's image: another value is another version */
	u64 state;       /* HT_STATE_…, written by the tracer */
	u64 image;       /* address of the image */
	u64 size;        /* of the tables */
	u64 started;     /* CLOCK_REALTIME, nanoseconds, when tracking began */
	u64 owner;       /* pid and start time of the target, as the tracer sees them; 0 in a followed child's */
	u64 owner_start;
	u64 original[HT_PYTHON_DOMAINS][HT_FUNCTIONS];
	u64 native_stacks; /* stacks have native frames */
	u64 pad0[3]; /* the originals fill whole cache lines: they never change while hooks are in place */

	struct ht_config config;
	u64 pad1[4];

	/*
	 * The peak: the state in which the most bytes were live. While it is rising it is the present one. What is freed
	 * then ends it: from there on, who changes a stat for the first time since notes in it what it was. So the peak is
	 * known by stack, at any time, for a few instructions in each event.
	 */
	u64 live;       /* bytes now, of the domains that the GIL guards; written under it */
	u64 peak_bytes; /* of all domains */
	u64 peak;       /* the peak's number; ht_stat.peak */
	u32 peak_epoch;
	u32 rising;
	u64 timeline_due; /* the epoch of the next point */
	u64 timeline_step;
	u64 pad4[2];

	/* From threads to spare there are windows only: fork.h goes through all. */
	struct ht_window threads; /* ht_thread[entries], open addressing by thread pointer, entries a power of two */
	struct ht_window slots;   /* u32[entries]: numbers of the threads in use, in order of coming, plus 1; next counts */
	struct ht_window frames;  /* two ht_frame[frame_capacity] for each thread: last walk and workspace */
	struct ht_window nodes;   /* ht_node[entries] */
	struct ht_window codes;   /* ht_code[entries] */
	struct ht_window arena;   /* bytes: strings, hash tables */
	struct ht_window root;    /* u32[entries] */
	struct ht_window mids;    /* u32[1 << HT_MID_ENTRIES_LOG2] each */
	struct ht_window bases;   /* u64[entries]: the address that each leaf begins at */
	struct ht_window leaves;  /* u64[1 << HT_LEAF_WORDS_LOG2] each */
	struct ht_window filter;  /* u8[1 << HT_FILTER_LOG2] */
	struct ht_window stats;    /* ht_stat[entries] */
	struct ht_window timeline; /* ht_point[entries]: bytes live, now and then; written under the GIL */
	struct ht_window resident; /* ht_point[entries]: the process's resident bytes, written by each tracer that looks */
	struct ht_window slots_hooked; /* ht_ledger[entries]: GOT slots, of the tracer and of the agent */
	struct ht_window mappings;     /* ht_mapping[entries]; next: of those in use */
	struct ht_window modules;      /* ht_loaded[entries]: those whose slots were looked at */
	struct ht_window before;       /* ht_range[entries]: private memory in no file that was there when tracking began */
	struct ht_window outlet;       /* one ht_outlet */
	struct ht_window natives;      /* two ht_native_frame[stacks.capacity] for each thread: last walk and workspace */
	struct ht_window places;       /* ht_place[1 << HT_PLACES_LOG2] */
	struct ht_window objects;      /* ht_object[entries]; the tracer's */
	struct ht_window object_names; /* bytes of these; the tracer's */
	struct ht_window rows;         /* bytes: ht_row, struct ht_modules; the tracer's */
	struct ht_window others;       /* ht_others[entries] */
	struct ht_window spare[1];
	u64 frame_capacity;
	u64 pad2[3];

	/* The code table: written under the lock, read without. */
	u32 code_lock;
	u32 code_generation; /* counts retirements */
	u64 code_slots;      /* offset << 8 | log2 of the number of ht_code_slot */
	u64 code_slots_used;  /* slots that are not free */
	u64 code_slots_spare; /* the table before this one, to be used again */
	u64 code_buckets; /* offset << 8 | log2 of the number of u32 by content hash */
	u32 code_flush;   /* a retirement could not be recorded: forget all addresses */
	u32 pad3;
	u64 lost_threads; /* allocations of threads that have no record since the table is full */
	u64 orphan_frees; /* blocks freed by such threads */
	u64 live_other;   /* bytes now, of the domains that the GIL does not guard, but for what threads keep; atomic */
	u64 pad5[3];
	struct ht_python python;

	/* Native allocations. */
	u64 native[HT_NATIVE_FUNCTIONS][HT_NATIVE_VARIANTS]; /* originals; 0: free */
	u64 stubs[HT_NATIVE_FUNCTIONS][HT_NATIVE_VARIANTS];  /* their hooks, filled in by the tracer */
	struct ht_name names[HT_NAMES];
	u64 loader;       /* address of the loader's struct r_debug, or 0 */
	u64 slots_missed; /* of modules loaded later: no variant, no permission, no room */
	u64 loader_iterate; /* address of dl_iterate_phdr, or 0: modules loaded later are not looked at */
	u64 modules_looks; /* how often they were looked at */
	u32 mappings_stuck; /* mappings_lock was waited for in vain */
	u32 own_scope;     /* threads in dlopen with RTLD_DEEPBIND, or back and not come to look yet */
	u32 has_mapped; /* mmap's family is hooked */
	u32 may_yield; /* sched_yield */
	u32 names_count;
	u32 has_native; /* malloc's family is hooked: what CPython's allocators ask of it is not to be counted again */
	u32 modules_lock;
	u32 mappings_lock;

	/* Forked children; see fork.h. */
	u64 followed;     /* that have got tables of their own; atomic */
	u64 not_followed; /* that could not; atomic */
	u64 parent;       /* of a followed child: the pid that the tables' process before it had, in its own namespace */

	/* The interpreter's end; see ending.h. */
	u64 ending_word; /* address of the pointer that is set when the interpreter ends; 0: nobody minds */
	u32 ending;      /* HT_ENDING_… */
	u32 ending_keeper; /* pid, as the target sees it, of whoever lets it go on; 0: not known */
	u32 filtered; /* the process has set a seccomp filter since: the agent makes no system calls any more; see filter.h */
	u32 pad8;
	u64 reserved[10];

	struct ht_stacks stacks;

	struct ht_ledger ledger[HT_LEDGER_ENTRIES];
	u64 pad7[103];
};
HT_ASSERT_SIZE(struct ht_tables, 8192);

/* Not yet; it waits to be looked at; it has been. */
enum { HT_ENDING_NOT, HT_ENDING_WAITS, HT_ENDING_SEEN };

/* In the flag page: zero in a forked child. */
struct ht_flag {
	u64 active;
	/*
	 * Bytes until the next sample, for the domains that the GIL guards. Below zero, also in a forked child, sends
	 * an allocation the long way, which looks at `active`.
	 */
	s64 until_sample;
	u64 tables; /* whose the tables are: HT_TABLES_… */
	u64 calling; /* threads that are in system calls of the agent's own */
};
HT_ASSERT_SIZE(struct ht_flag, 32);

/*
 * What a wiped page says must be that the tables came with a fork. A tracer that wants a child to stay as it is says
 * that they are not to be replaced.
 */
enum { HT_TABLES_INHERITED, HT_TABLES_CHANGING, HT_TABLES_OWN, HT_TABLES_LEFT };

/*
 * For each hash of an address, how many sampled blocks (and code objects) have it: what most frees look at, and no
 * more. A counter that was full stays full.
 */
enum { HT_FILTER_LOG2 = 14, HT_FILTER_FULL = 255 };

#endif
