/* The file of -o rdma_map=: what is understood, and what is refused, with the line. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "filer/base/base.h"
#include "fs/rdma_map.h"

static char message[512];

static struct rdma_map *parse(const char *text)
{
	struct rdma_map *m;

	message[0] = '\0';
	assert_int_equal(rdma_map_parse(text, strlen(text), "file", &m, message, sizeof(message)),
			 0);
	return m;
}

static void assert_maps(const struct rdma_map *m, const char *server, const char *host,
			uint16_t port)
{
	struct endpoint e, agent;

	assert_int_equal(endpoint_parse(server, strlen(server), 0, &e), 0);
	assert_true(rdma_map_find(m, &e, &agent));
	assert_string_equal(agent.host, host);
	assert_int_equal(agent.port, port);
}

static void assert_unmapped(const struct rdma_map *m, const char *server)
{
	struct endpoint e, agent;

	assert_int_equal(endpoint_parse(server, strlen(server), 0, &e), 0);
	assert_false(rdma_map_find(m, &e, &agent));
}

static void assert_refused_bytes(const char *text, size_t len, const char *why)
{
	struct rdma_map *m;

	assert_int_equal(rdma_map_parse(text, len, "file", &m, message, sizeof(message)), -EINVAL);
	assert_string_equal(message, why);
}

static void assert_refused(const char *text, const char *why)
{
	assert_refused_bytes(text, strlen(text), why);
}

static void each_line_maps_one_volume_server(void **state)
{
	struct rdma_map *m = parse("v2:8080 10.1.0.2:1234\n"
				   "v1:8080 10.1.0.1\n"
				   "v1:8081 rdma-1\n"
				   "[fe80::1]:8080 [fd00::1]:99");

	(void)state;
	assert_int_equal(rdma_map_count(m), 4);
	assert_maps(m, "v1:8080", "10.1.0.1", 18515);
	assert_maps(m, "v1:8081", "rdma-1", 18515);
	assert_maps(m, "V2:8080", "10.1.0.2", 1234);
	assert_maps(m, "[fe80::1]:8080", "fd00::1", 99);
	assert_unmapped(m, "v2:8081");
	assert_unmapped(m, "v3:8080");
	rdma_map_free(m);
}

static void comments_blank_lines_and_any_white_space_are_skipped(void **state)
{
	struct rdma_map *m = parse("# all of them\n\n   \t\r\n"
				   "\t v1:8080 \t 10.0.0.1:7   # the first\r\n"
				   "v2:8080 10.0.0.2# the second\n"
				   "#v3:8080 10.0.0.3\n\n");

	(void)state;
	assert_int_equal(rdma_map_count(m), 2);
	assert_maps(m, "v1:8080", "10.0.0.1", 7);
	assert_maps(m, "v2:8080", "10.0.0.2", 18515);
	rdma_map_free(m);
}

static void an_empty_file_maps_nothing(void **state)
{
	struct rdma_map *m = parse("");

	(void)state;
	assert_int_equal(rdma_map_count(m), 0);
	assert_unmapped(m, "v1:8080");
	rdma_map_free(m);
}

static void what_is_not_understood_is_told_with_its_line(void **state)
{
	(void)state;
	assert_refused("v1:8080 10.0.0.1\n\nv2:8080\n",
		       "file:3: expected VOLUME_SERVER_HOST:PORT RDMA_ADDRESS[:PORT]");
	assert_refused("v1:8080 # 10.0.0.1\n",
		       "file:1: expected VOLUME_SERVER_HOST:PORT RDMA_ADDRESS[:PORT]");
	assert_refused("v1 10.0.0.1\n", "file:1: a volume server's HOST:PORT is expected, not v1");
	assert_refused("v1:0 10.0.0.1\n",
		       "file:1: a volume server's HOST:PORT is expected, not v1:0");
	assert_refused("http://v1:80 10.0.0.1\n",
		       "file:1: a volume server's HOST:PORT is expected, not http://v1:80");
	assert_refused("v1:80 10.0.0.1:66000\n",
		       "file:1: an ADDRESS[:PORT] for RDMA is expected, not 10.0.0.1:66000");
	assert_refused("v1:80 10.0.0.1 10.0.0.2\n", "file:1: more than two addresses");
}

static void a_server_that_is_named_twice_is_told(void **state)
{
	(void)state;
	assert_refused("v1:80 10.0.0.1\nv2:80 10.0.0.1\nV1:80 10.0.0.3\n",
		       "file:3: the same volume server as in line 1");
}

static void bytes_of_any_kind_do_no_harm(void **state)
{
	static const char nul[] = "v1:8080 10.0.0.1\0\nv2:80 10.0.0.2\n";
	char line[5000];

	(void)state;
	struct rdma_map *m;
	assert_int_equal(rdma_map_parse(nul, sizeof(nul) - 1, "file", &m, message, sizeof(message)),
			 -EINVAL);
	assert_memory_equal(message, "file:1: ", 8);
	memset(line, 'x', sizeof(line));
	assert_int_equal(rdma_map_parse(line, sizeof(line), "file", &m, message, sizeof(message)),
			 -EINVAL);
	line[100] = ' ';
	assert_int_equal(rdma_map_parse(line, sizeof(line), "file", &m, message, sizeof(message)),
			 -EINVAL);
}

static void there_is_a_limit_to_how_many(void **state)
{
	enum { LINES = RDMA_MAP_LINES_MAX + 1 };
	char *text = malloc((size_t)LINES * 24);
	size_t n = 0, up_to_limit = 0;
	struct rdma_map *m;

	(void)state;
	for (int i = 0; i < LINES; i++) {
		up_to_limit = n;
		n += (size_t)sprintf(text + n, "v%d:80 10.0.0.1\n", i);
	}
	assert_refused_bytes(text, n, "file:4097: more than 4096 volume servers");
	assert_int_equal(rdma_map_parse(text, up_to_limit, "file", &m, message, sizeof(message)),
			 0);
	assert_maps(m, "v4095:80", "10.0.0.1", 18515);
	rdma_map_free(m);
	free(text);
}

static void only_files_of_a_sane_size_are_read(void **state)
{
	char dir[] = "/tmp/kelp-map-XXXXXX";
	char path[64];
	struct rdma_map *m;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/map", dir);
	assert_int_equal(rdma_map_read(path, &m, message, sizeof(message)), -ENOENT);
	assert_non_null(strstr(message, "/map: No such file"));
	assert_int_equal(rdma_map_read(dir, &m, message, sizeof(message)), -EISDIR);
	assert_int_equal(mkfifo(path, 0600), 0);
	assert_int_equal(rdma_map_read(path, &m, message, sizeof(message)), -EINVAL);
	unlink(path);
	FILE *f = fopen(path, "w");
	assert_non_null(f);
	fputs("v1:80 10.0.0.1\n", f);
	fflush(f);
	assert_int_equal(rdma_map_read(path, &m, message, sizeof(message)), 0);
	assert_maps(m, "v1:80", "10.0.0.1", 18515);
	rdma_map_free(m);
	assert_int_equal(ftruncate(fileno(f), (off_t)RDMA_MAP_BYTES_MAX + 1), 0);
	assert_int_equal(rdma_map_read(path, &m, message, sizeof(message)), -EFBIG);
	fclose(f);
	unlink(path);
	rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_line_maps_one_volume_server),
		cmocka_unit_test(comments_blank_lines_and_any_white_space_are_skipped),
		cmocka_unit_test(an_empty_file_maps_nothing),
		cmocka_unit_test(what_is_not_understood_is_told_with_its_line),
		cmocka_unit_test(a_server_that_is_named_twice_is_told),
		cmocka_unit_test(bytes_of_any_kind_do_no_harm),
		cmocka_unit_test(there_is_a_limit_to_how_many),
		cmocka_unit_test(only_files_of_a_sane_size_are_read),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
