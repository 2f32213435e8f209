/*
 * agent.c: the part of heaptap that lives inside the target.
 *
 * Freestanding: no libc, no thread-local storage, no relocations, no undefined symbols; it takes no lock of the
 * target's and calls nothing of it but the allocators it stands in front of and the pure getters that the tracer
 * named. One translation unit, so that a hook is one function in the end. What the data looks like is in abi.h.
 *
 * hooks.h is entered by the target; walk.h finds the Python stack in the trie of nodes.h, hybrid.h the stack with its
 * native frames, by unwind.h; code.h names what is on it, live.h notes the block, stats.h counts it; threads.h, clock.h
 * and sample.h serve them. In a forked child that is followed, fork.h makes fresh tables. signal.h writes them to a
 * file. Where an interpreter ends, ending.h lets it be looked at. Where a process sets a seccomp filter, filter.h ends
 * the system calls.
 */
#include "base.h"
#include "sample.h"
#include "clock.h"
#include "nodes.h"
#include "threads.h"
#include "live.h"
#include "stats.h"
#include "code.h"
#include "walk.h"
#include "unwind.h"
#include "hybrid.h"
#include "mappings.h"
#include "modules.h"
#include "depth.h"
#include "fork.h"
#include "signal.h"
#include "hooks.h"
#include "ending.h"
#include "filter.h"
#include "native.h"

