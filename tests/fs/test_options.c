/* The command line: what is understood, and what is refused by name. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "filer/base/base.h"
#include "fs/options.h"

static char message[512];

static int parse(struct options *o, const char *source, const char *list)
{
	char *argv[] = { "kelpfs", (char *)source, "/mnt", "-o", (char *)list, NULL };

	return options_parse(list ? 5 : 3, argv, o, message, sizeof(message));
}

static void assert_list_fails_with(const char *list, const char *part)
{
	struct options o;

	assert_int_equal(parse(&o, "h", list), -EINVAL);
	assert_non_null(strstr(message, part));
}

static void assert_source(const char *source, const char *host, uint16_t port, const char *path)
{
	struct options o;

	assert_int_equal(parse(&o, source, NULL), 0);
	assert_string_equal(o.filers[0].host, host);
	assert_int_equal(o.filers[0].port, port);
	assert_string_equal(o.path, path);
	options_free(&o);
}

static void a_filer_without_port_or_path_means_8888_and_the_root(void **state)
{
	(void)state;
	assert_source("filer", "filer", 8888, "/");
}

static void a_path_after_the_filer_mounts_a_subtree(void **state)
{
	(void)state;
	assert_source("filer:1234/a/b/", "filer", 1234, "/a/b");
	assert_source("http://filer:1234//a//b", "filer", 1234, "/a/b");
}

static void the_spelling_of_nfs_is_understood(void **state)
{
	(void)state;
	assert_source("filer:1234:/a", "filer", 1234, "/a");
	assert_source("filer:/a", "filer", 8888, "/a");
}

static void several_filers_are_kept_in_order(void **state)
{
	struct options o;

	(void)state;
	assert_int_equal(parse(&o, "a:1,https://b:2,c/x", NULL), 0);
	assert_int_equal(o.n_filers, 3);
	assert_string_equal(o.filers[1].host, "b");
	assert_true(o.filers[1].https);
	assert_string_equal(o.filers[2].host, "c");
	assert_string_equal(o.path, "/x");
	options_free(&o);
}

static void a_path_with_dots_is_refused(void **state)
{
	struct options o;

	(void)state;
	assert_int_equal(parse(&o, "h/a/../b", NULL), -EINVAL);
	assert_non_null(strstr(message, ".."));
}

static void an_address_that_is_none_is_refused_by_name(void **state)
{
	struct options o;

	(void)state;
	assert_int_equal(parse(&o, "h:99999", NULL), -EINVAL);
	assert_non_null(strstr(message, "h:99999"));
}

static void an_unknown_option_is_refused_by_name(void **state)
{
	(void)state;
	assert_list_fails_with("slabb=1G", "slabb=1G");
	assert_list_fails_with("direct_iox", "direct_iox");
}

static void a_value_out_of_range_is_refused_by_name(void **state)
{
	(void)state;
	assert_list_fails_with("slab=1K", "slab=1K");
	assert_list_fails_with("threads=0", "threads=0");
	assert_list_fails_with("max_read=2M", "max_read=2M");
}

static void a_value_that_is_no_number_is_refused_by_name(void **state)
{
	static const char *const bad[] = { "slab=",      "slab=x",      "slab=1X",
					   "slab=-1",    "slab",        "timeout=nan",
					   "timeout=1e", "threads=1.5", "clone_fd=1" };

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_list_fails_with(bad[i], bad[i]);
}

static void sizes_take_suffixes(void **state)
{
	struct options o;

	(void)state;
	assert_int_equal(parse(&o, "h", "slab=1.5G,readahead=8m"), 0);
	assert_int_equal(o.slab_bytes, 3 * GIB / 2);
	assert_int_equal(o.readahead_bytes, 8 * MIB);
	options_free(&o);
}

static void times_are_given_in_seconds(void **state)
{
	struct options o;

	(void)state;
	assert_int_equal(parse(&o, "h", "timeout=2.5,attr_timeout=0.25"), 0);
	assert_int_equal(o.timeout_ms, 2500);
	assert_true(o.attr_timeout_s == 0.25);
	options_free(&o);
}

static void a_backslash_keeps_a_comma(void **state)
{
	struct options o;

	(void)state;
	assert_int_equal(parse(&o, "h", "tls_ca=/a\\,b,direct_io"), 0);
	assert_string_equal(o.tls_ca, "/a,b");
	assert_true(o.direct_io);
	options_free(&o);
}

static void what_mount_adds_by_itself_is_accepted(void **state)
{
	struct options o;

	(void)state;
	assert_int_equal(
		parse(&o, "h", "rw,dev,suid,_netdev,nofail,x-systemd.automount,allow_other"), 0);
	assert_string_equal(o.fuse_options, "dev,suid,allow_other");
	options_free(&o);
}

static void id_maps_are_local_then_filer(void **state)
{
	struct options o;

	(void)state;
	assert_int_equal(parse(&o, "h", "map_uid=1000:0,map_uid=1001:5,map_gid=7:8"), 0);
	assert_int_equal(o.uid_maps.n, 2);
	assert_int_equal(o.uid_maps.map[1].local, 1001);
	assert_int_equal(o.uid_maps.map[1].filer, 5);
	assert_int_equal(o.gid_maps.map[0].local, 7);
	options_free(&o);
	assert_list_fails_with("map_uid=1000", "map_uid=1000");
	assert_list_fails_with("map_uid=-1:0", "map_uid=-1:0");
}

static void an_empty_mountpoint_or_filer_is_refused_by_name(void **state)
{
	char *no_mountpoint[] = { "kelpfs", "h", "", NULL };
	char *no_filer[] = { "kelpfs", "", "/mnt", NULL };
	struct options o;

	(void)state;
	assert_int_equal(options_parse(3, no_mountpoint, &o, message, sizeof(message)), -EINVAL);
	assert_non_null(strstr(message, "mountpoint is empty"));
	assert_int_equal(options_parse(3, no_filer, &o, message, sizeof(message)), -EINVAL);
	assert_non_null(strstr(message, "filer is empty"));
}

static void files_are_made_absolute(void **state)
{
	struct options o;

	(void)state;
	assert_int_equal(parse(&o, "h", "security=s.toml"), 0);
	assert_int_equal(o.security_toml[0], '/');
	assert_string_equal(strrchr(o.security_toml, '/'), "/s.toml");
	options_free(&o);
}

static void certificate_and_key_go_together(void **state)
{
	(void)state;
	assert_list_fails_with("tls_cert=/c", "tls_key");
}

static void a_third_argument_is_refused(void **state)
{
	char *argv[] = { "kelpfs", "h", "/mnt", "/mnt2", NULL };
	struct options o;

	(void)state;
	assert_int_equal(options_parse(4, argv, &o, message, sizeof(message)), -EINVAL);
	assert_non_null(strstr(message, "/mnt2"));
}

struct seen {
	const char *wanted;
	char value[64];
	enum option_source source;
};

static void note_option(void *arg, const char *name, const char *value, enum option_source source)
{
	struct seen *s = arg;

	if (strcmp(name, s->wanted) != 0)
		return;
	strncpy(s->value, value, sizeof(s->value) - 1);
	s->source = source;
}

static void each_option_says_where_its_value_came_from(void **state)
{
	struct seen threads = { .wanted = "threads" }, timeout = { .wanted = "timeout" };
	struct options o;

	(void)state;
	assert_int_equal(parse(&o, "h", "threads=16"), 0);
	options_each(&o, note_option, &threads);
	options_each(&o, note_option, &timeout);
	assert_string_equal(threads.value, "16");
	assert_int_equal(threads.source, OPTION_COMMAND_LINE);
	assert_string_equal(timeout.value, "10");
	assert_int_equal(timeout.source, OPTION_DEFAULT);
	options_free(&o);
}

static void lists_and_choices_are_shown_as_they_are_given(void **state)
{
	static const struct {
		const char *name, *value;
	} expected[] = {
		{ "master", "http://a:9333 http://b:1" },
		{ "map_uid", "1:2 3:4" },
		{ "map_gid", "" },
		{ "splice", "off" },
		{ "log", "auto" },
		{ "direct_io", "on" },
		{ "readahead_kb", "auto" },
	};
	struct options o;

	(void)state;
	assert_int_equal(
		parse(&o, "h", "master=a,master=b:1,map_uid=1:2,map_uid=3:4,splice=off,direct_io"),
		0);
	for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
		struct seen seen = { .wanted = expected[i].name };

		options_each(&o, note_option, &seen);
		assert_string_equal(seen.value, expected[i].value);
	}
	options_free(&o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_filer_without_port_or_path_means_8888_and_the_root),
		cmocka_unit_test(a_path_after_the_filer_mounts_a_subtree),
		cmocka_unit_test(the_spelling_of_nfs_is_understood),
		cmocka_unit_test(several_filers_are_kept_in_order),
		cmocka_unit_test(a_path_with_dots_is_refused),
		cmocka_unit_test(an_address_that_is_none_is_refused_by_name),
		cmocka_unit_test(an_unknown_option_is_refused_by_name),
		cmocka_unit_test(a_value_out_of_range_is_refused_by_name),
		cmocka_unit_test(a_value_that_is_no_number_is_refused_by_name),
		cmocka_unit_test(sizes_take_suffixes),
		cmocka_unit_test(times_are_given_in_seconds),
		cmocka_unit_test(a_backslash_keeps_a_comma),
		cmocka_unit_test(what_mount_adds_by_itself_is_accepted),
		cmocka_unit_test(id_maps_are_local_then_filer),
		cmocka_unit_test(an_empty_mountpoint_or_filer_is_refused_by_name),
		cmocka_unit_test(files_are_made_absolute),
		cmocka_unit_test(certificate_and_key_go_together),
		cmocka_unit_test(a_third_argument_is_refused),
		cmocka_unit_test(each_option_says_where_its_value_came_from),
		cmocka_unit_test(lists_and_choices_are_shown_as_they_are_given),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
