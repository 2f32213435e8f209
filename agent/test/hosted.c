/*
 * hosted.c: the agent's own sources as an ordinary program, to test its tables under sanitizers.
 *
 *	hosted test NAME SEED     run one test; silent and 0, or a message and 1
 *	hosted list               the tests' names
 *	hosted fill FILE SEED     run a make-believe target on the tables in FILE, whose header is filled in, and print what
 *	                          a reader must find there
 *	hosted signal FILE SEED   the same, and then write them to FILE.0 as a handler of a signal does
 */
#include "fixture.h"

#include "live.h"
#include "walk.h"
#include "code.h"
#include "threads.h"
#include "sample.h"
#include "stats.h"
#include "fork.h"
#include "native.h"
#include "depth.h"
#include "filter.h"
#include "fill.h"
#include "signal.h"

static const struct {
	const char *name;
	void (*run)(void);
} tests[] = {
	{"live map", test_live_map},
	{"live odd addresses", test_live_odd},
	{"live full", test_live_full},
	{"hooks", test_hooks},
	{"realloc ends", test_realloc_ends},
	{"inert", test_inert},
	{"no record", test_no_record},
	{"epochs", test_epochs},
	{"nodes", test_nodes},
	{"nodes full", test_nodes_full},
	{"walk", test_walk},
	{"walk deep", test_walk_deep},
	{"walk thread states", test_walk_tstate},
	{"codes", test_codes},
	{"codes reused", test_codes_reused},
	{"codes moving", test_codes_moving},
	{"codes locked", test_codes_locked},
	{"codes full", test_codes_full},
	{"strings", test_strings},
	{"threads", test_threads},
	{"threads prefer free", test_threads_prefer_free},
	{"threads takeover race", test_threads_takeover_race},
	{"concurrent", test_concurrent},
	{"sample distance", test_sample_distance},
	{"sample weight", test_sample_weight},
	{"sample unbiased", test_sample_unbiased},
	{"sample failed", test_sample_failed},
	{"sample begins", test_sample_begins},
	{"sample codes", test_sample_codes},
	{"filter", test_filter},
	{"peak", test_peak},
	{"timeline", test_timeline},
	{"temporary", test_temporary},
	{"fork", test_fork},
	{"fork races", test_fork_races},
	{"fork quiet", test_fork_quiet},
	{"depth left", test_depth_left},
	{"depth handlers", test_depth_handlers},
	{"filter comes", test_filter_comes},
	{"filter waits", test_filter_waits},
	{"mappings", test_mappings},
	{"mappings full", test_mappings_full},
	{"slots", test_slots},
	{"loader", test_loader},
};

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "list")) {
		for (u32 i = 0; i < sizeof tests / sizeof *tests; i++)
			puts(tests[i].name);
		return 0;
	}
	if (argc != 4) {
		fprintf(stderr, "usage: hosted list | test NAME SEED | fill FILE SEED | signal FILE SEED\n");
		return 2;
	}
	test_name = argv[2];
	rng = seed = strtoull(argv[3], 0, 10);
	if (!strcmp(argv[1], "fill")) {
		fill(argv[2]);
		return 0;
	}
	if (!strcmp(argv[1], "signal")) {
		signal_file(argv[2]);
		return 0;
	}
	for (u32 i = 0; i < sizeof tests / sizeof *tests; i++)
		if (!strcmp(tests[i].name, argv[2])) {
			tests[i].run();
			return 0;
		}
	fprintf(stderr, "no test %s\n", argv[2]);
	return 2;
}
