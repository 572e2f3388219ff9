/* The command line of kelpctl: what is understood, and what is refused by name. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "fs/ctl_options.h"

#define WORDS_MAX 32

static char message[512];

/* Words are separated by one space each. */
static int parse(struct ctl_options *o, const char *line)
{
	char text[512], *argv[WORDS_MAX + 1] = { "kelpctl" }, *rest = text;
	int argc = 1;

	snprintf(text, sizeof(text), "%s", line);
	for (char *word; argc < WORDS_MAX && (word = strsep(&rest, " "));)
		argv[argc++] = word;
	return ctl_options_parse(argc, argv, o, message, sizeof(message));
}

static struct ctl_options parsed(const char *line)
{
	struct ctl_options o;

	if (parse(&o, line))
		fail_msg("%s: %s", line, message);
	return o;
}

static void assert_refused(const char *line, const char *part)
{
	struct ctl_options o;

	assert_int_equal(parse(&o, line), -EINVAL);
	if (!strstr(message, part))
		fail_msg("%s: %s", line, message);
	assert_null(strchr(message, '\n'));
}

static void an_agent_has_the_port_of_kelpd_unless_told_otherwise(void **state)
{
	(void)state;
	struct ctl_options o = parsed("ping host");
	assert_string_equal(o.agent.host, "host");
	assert_int_equal(o.agent.port, 18515);
	assert_true(o.count == 0 && o.interval_ms == 1000);
	ctl_options_free(&o);
	o = parsed("caps [::1]:77");
	assert_string_equal(o.agent.host, "::1");
	assert_int_equal(o.agent.port, 77);
	ctl_options_free(&o);
}

static void values_follow_or_stand_behind_an_equals_sign(void **state)
{
	(void)state;
	struct ctl_options o = parsed("ping -c 3 host --interval=0.25");
	assert_true(o.command == CTL_PING && o.count == 3 && o.interval_ms == 250);
	ctl_options_free(&o);
}

static void two_hyphens_end_the_options(void **state)
{
	(void)state;
	struct ctl_options o = parsed("locate -- filer/--json");
	assert_string_equal(o.cluster.path, "/--json");
	assert_false(o.json);
	ctl_options_free(&o);
}

static void a_path_is_split_from_its_filers(void **state)
{
	(void)state;
	struct ctl_options o = parsed("locate one:1,two/a//b/ --master m --master n:5 --json");
	assert_int_equal(o.cluster.n_filers, 2);
	assert_string_equal(o.cluster.path, "/a/b");
	assert_int_equal(o.cluster.n_masters, 2);
	assert_int_equal(o.cluster.masters[0].port, 9333);
	assert_int_equal(o.cluster.masters[1].port, 5);
	assert_true(o.json);
	ctl_options_free(&o);
}

static void a_needle_is_read_in_every_way_that_there_is(void **state)
{
	static const struct {
		const char *where;
		unsigned ways;
	} cases[] = {
		{ "--agent a", VIA_AGENT },
		{ "--server s", VIA_AGENT | VIA_HTTP },
		{ "--master m", VIA_AGENT | VIA_HTTP },
		{ "--filer f", VIA_AGENT | VIA_HTTP | VIA_PROXY },
		{ "--filer f --via http,proxy", VIA_HTTP | VIA_PROXY },
	};

	(void)state;
	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		char line[128];

		snprintf(line, sizeof(line), "read 3,01637037d6 %s", cases[i].where);
		struct ctl_options o = parsed(line);
		assert_int_equal(o.via, cases[i].ways);
		assert_true(o.via_any == !strstr(cases[i].where, "--via"));
		assert_int_equal(o.n_fids, 1);
		assert_true(o.fids[0].volume_id == 3 && o.fids[0].cookie == 0x637037d6);
		ctl_options_free(&o);
	}
}

static void a_range_takes_suffixes(void **state)
{
	(void)state;
	struct ctl_options o = parsed("read 3,01637037d6 --agent a --offset 1M --size 4K -o file");
	assert_true(o.offset == 1048576 && o.size == 4096);
	assert_string_equal(o.output, "file");
	ctl_options_free(&o);
}

static void a_benchmark_takes_ids_or_one_path(void **state)
{
	(void)state;
	struct ctl_options o = parsed("bench 3,01637037d6 4,02637037d6 --agent a");
	assert_true(o.n_fids == 2 && o.via == VIA_TCP);
	ctl_options_free(&o);
	o = parsed("bench filer:1/a,b/c");
	assert_true(o.n_fids == 0 && o.cluster.n_filers == 1);
	assert_string_equal(o.cluster.path, "/a,b/c");
	ctl_options_free(&o);
}

static void a_benchmark_takes_lists(void **state)
{
	(void)state;
	struct ctl_options o = parsed(
		"bench f/p --sizes 1,4K,1M --depths 2,256 --via http,tcp --seconds 0.5");
	assert_true(o.n_sizes == 3 && o.sizes[0] == 1 && o.sizes[1] == 4096 &&
		    o.sizes[2] == 1048576);
	assert_true(o.n_depths == 2 && o.depths[0] == 2 && o.depths[1] == 256);
	assert_true(o.via == (VIA_TCP | VIA_HTTP) && o.point_ms == 500);
	ctl_options_free(&o);
}

static void a_list_given_again_replaces_the_first(void **state)
{
	(void)state;
	struct ctl_options o = parsed("bench f/p --sizes 4K,8K --sizes 1M");
	assert_true(o.n_sizes == 1 && o.sizes[0] == 1048576);
	ctl_options_free(&o);
}

static void json_is_a_file_only_for_a_benchmark(void **state)
{
	(void)state;
	struct ctl_options o = parsed("bench f/p --json out");
	assert_string_equal(o.json_file, "out");
	ctl_options_free(&o);
	assert_refused("bench f/p --json", "--json FILE");
	assert_refused("caps h --json=out", "takes no value");
}

static void help_needs_no_arguments(void **state)
{
	(void)state;
	struct ctl_options o = parsed("--help");
	assert_true(o.request == CTL_HELP && o.command == CTL_NONE);
	ctl_options_free(&o);
	o = parsed("read --help");
	assert_true(o.request == CTL_HELP && o.command == CTL_READ);
	ctl_options_free(&o);
}

static void what_is_wrong_is_named(void **state)
{
	(void)state;
	assert_refused("", "unknown command");
	assert_refused("frob", "frob");
	assert_refused("--frob", "--frob");
	assert_refused("ping host --offset 3", "--offset");
	assert_refused("ping host -x", "-x");
	assert_refused("ping", "too few");
	assert_refused("read 3,01637037d6 4,01637037d6 --agent a", "too many");
	assert_refused("read x --agent a", "x: not a file id");
	assert_refused("read 3,01637037d6", "where?");
	assert_refused("read 3,01637037d6 --agent a --size 1G", "out of range");
	assert_refused("bench f/p --depths 0", "out of range");
	assert_refused("bench f/p --depths 1.5", "out of range");
	assert_refused("bench f/p --sizes 1,", "--sizes");
	assert_refused("bench f/p --depths 1,2,3,4,5,6,7,8,9,1,2,3,4,5,6,7,8", "out of range");
	assert_refused("bench f/p --via tcp,", "--via");
	assert_refused("locate f/a/../b", "..");
	assert_refused("locate f/a --tls-cert c", "--tls-key");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(an_agent_has_the_port_of_kelpd_unless_told_otherwise),
		cmocka_unit_test(values_follow_or_stand_behind_an_equals_sign),
		cmocka_unit_test(two_hyphens_end_the_options),
		cmocka_unit_test(a_path_is_split_from_its_filers),
		cmocka_unit_test(a_needle_is_read_in_every_way_that_there_is),
		cmocka_unit_test(a_range_takes_suffixes),
		cmocka_unit_test(a_benchmark_takes_ids_or_one_path),
		cmocka_unit_test(a_benchmark_takes_lists),
		cmocka_unit_test(a_list_given_again_replaces_the_first),
		cmocka_unit_test(json_is_a_file_only_for_a_benchmark),
		cmocka_unit_test(help_needs_no_arguments),
		cmocka_unit_test(what_is_wrong_is_named),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
