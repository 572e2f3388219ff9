/* The store beside a real volume server, which appends, overwrites, deletes and vacuums while needles
 * are read. Skipped where there is no weed: KELP_WEED names it, else it is looked for in .venv/bin.
 *
 * Thread model: the test's thread is the only writer; readers look at needles that it has published,
 * and at what it wrote last before and after each read. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <netinet/in.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "filer/base/crc32c.h"
#include "filer/json.h"
#include "rdma/agent/store.h"

#define SKIP 77
#define PORT_FIRST 26000
#define PORTS 900
#define START_MS 60000
#define FOLLOW_MS 60000
#define NEEDLES_MAX 4096
#define DATA_BYTES_MAX 40000
#define BODY_BYTES_MAX ((size_t)1 << 20)
#define READERS 2
#define READS_PER_PAUSE 32 /* the server needs its share of the machine */
#define ROUNDS 3
#define URL_MAX 512

enum port { MASTER, MASTER_GRPC, VOLUME, VOLUME_GRPC, N_PORTS };

struct body {
	size_t len;
	char bytes[BODY_BYTES_MAX];
};

/* What was written last; the bytes follow from key and generation. */
struct needle {
	struct fid fid;
	atomic_uint begun; /* generation that the server may have */
	atomic_uint done; /* ... that it has acknowledged */
	atomic_bool delete_begun, deleted;
};

static struct cluster {
	char dir[64];
	char weed[512];
	int ports[N_PORTS];
	pid_t pid;
	CURL *curl;
	struct body *body;
	struct store *store;
	struct needle *needles;
	atomic_size_t n_needles;
	atomic_bool stop;
	atomic_size_t reads, sent_away;
} c;

/* --- HTTP --- */

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
	struct body *b = arg;

	if (size * n >= BODY_BYTES_MAX - b->len)
		return 0;
	memcpy(b->bytes + b->len, p, size * n);
	b->len += size * n;
	b->bytes[b->len] = '\0';
	return size * n;
}

/* Returns the status; 0: no answer. data: what to PUT, or NULL. */
static long http(const char *method, enum port port, const char *path, const void *data, size_t len)
{
	char url[URL_MAX];
	long status = 0;
	struct curl_slist *headers = curl_slist_append(NULL, "Accept-Encoding: gzip");

	snprintf(url, sizeof(url), "http://127.0.0.1:%d%s", c.ports[port], path);
	curl_easy_reset(c.curl);
	curl_easy_setopt(c.curl, CURLOPT_URL, url);
	curl_easy_setopt(c.curl, CURLOPT_CUSTOMREQUEST, method);
	curl_easy_setopt(c.curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(c.curl, CURLOPT_PROXY, "");
	curl_easy_setopt(c.curl, CURLOPT_TIMEOUT, 120L);
	curl_easy_setopt(c.curl, CURLOPT_WRITEFUNCTION, on_body);
	curl_easy_setopt(c.curl, CURLOPT_WRITEDATA, c.body);
	if (data) {
		headers = curl_slist_append(headers, "Content-Type: application/x-test");
		curl_easy_setopt(c.curl, CURLOPT_POSTFIELDS, data);
		curl_easy_setopt(c.curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)len);
	}
	curl_easy_setopt(c.curl, CURLOPT_HTTPHEADER, headers);
	c.body->len = 0;
	if (curl_easy_perform(c.curl) == CURLE_OK)
		curl_easy_getinfo(c.curl, CURLINFO_RESPONSE_CODE, &status);
	curl_slist_free_all(headers);
	return status;
}

static void path_of(const struct fid *fid, const char *query, char path[URL_MAX])
{
	char text[FID_STR_MAX];

	fid_format(fid, text);
	snprintf(path, URL_MAX, "/%s%s", text, query);
}

/* --- the server --- */

static bool port_is_free(int port)
{
	struct sockaddr_in a = { .sin_family = AF_INET,
				 .sin_port = htons((uint16_t)port),
				 .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	bool free = bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0;

	close(fd);
	return free;
}

static void choose_ports(void)
{
	int port = PORT_FIRST + getpid() % PORTS;

	for (int i = 0; i < N_PORTS; port++)
		if (port_is_free(port))
			c.ports[i++] = port;
}

/* Runs weed in the scratch directory, its output into a file. It dies with this process. */
static pid_t spawn_weed(const char *input, char *const argv[])
{
	pid_t parent = getpid(), pid = fork();

	if (pid != 0)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	int log = open("weed.log", O_WRONLY | O_CREAT | O_APPEND, 0600);
	int in = open(input, O_RDONLY);
	if (getppid() != parent || log < 0 || in < 0)
		_exit(127);
	dup2(in, STDIN_FILENO);
	dup2(log, STDOUT_FILENO);
	dup2(log, STDERR_FILENO);
	execv(c.weed, argv);
	_exit(127);
}

static void start_server(void)
{
	char args[8][URL_MAX];
	static const char *const formats[] = { "-master.port=%d", "-master.port.grpc=%d",
					       "-volume.port=%d", "-volume.port.grpc=%d" };
	char *argv[16] = { c.weed,
			   "server",
			   "-ip=127.0.0.1",
			   "-filer=false",
			   "-volume.max=40",
			   "-master.volumeSizeLimitMB=64",
			   "-volume.dir.idx=idx",
			   "-dir=data" };
	size_t n = 8;

	for (int i = 0; i < N_PORTS; i++) {
		snprintf(args[i], sizeof(args[i]), formats[i], c.ports[i]);
		argv[n++] = args[i];
	}
	c.pid = spawn_weed("/dev/null", argv);
	assert_true(c.pid > 0);
}

static void stop_server(void)
{
	if (c.pid > 0) {
		kill(c.pid, SIGKILL);
		waitpid(c.pid, NULL, 0);
	}
	c.pid = 0;
}

/* --- writing --- */

static size_t fill(const struct fid *fid, unsigned generation, uint8_t data[DATA_BYTES_MAX])
{
	uint64_t random = fid->key * UINT64_C(0x9e3779b97f4a7c15) + generation;
	size_t len = 1 + (fid->key * 7919 + generation * 104729) % DATA_BYTES_MAX;

	for (size_t i = 0; i < len; i++) {
		random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
		data[i] = (uint8_t)(random >> 56);
	}
	return len;
}

static bool assign(const char *query, struct fid *ret)
{
	char path[URL_MAX];
	struct json json;

	snprintf(path, sizeof(path), "/dir/assign%s", query);
	if (http("GET", MASTER, path, NULL, 0) != 200 ||
	    json_parse(c.body->bytes, c.body->len, &json) != 0)
		return false;
	const char *text = cJSON_GetStringValue(cJSON_GetObjectItem(json.root, "fid"));
	bool ok = text && fid_parse(text, strlen(text), ret) == 0;
	json_free(&json);
	return ok;
}

static void put(struct needle *n, const char *query)
{
	static uint8_t data[DATA_BYTES_MAX];
	unsigned generation = atomic_load(&n->done) + 1;
	size_t len = fill(&n->fid, generation, data);
	char path[URL_MAX];

	path_of(&n->fid, query, path);
	atomic_store(&n->begun, generation);
	assert_int_equal(http("PUT", VOLUME, path, data, len), 201);
	atomic_store(&n->done, generation);
}

static struct needle *write_needle(const char *assign_query, const char *put_query)
{
	size_t i = atomic_load(&c.n_needles);

	assert_true(i < NEEDLES_MAX);
	struct needle *n = &c.needles[i];
	assert_true(assign(assign_query, &n->fid));
	put(n, put_query);
	atomic_store(&c.n_needles, i + 1);
	return n;
}

static void delete_needle(struct needle *n)
{
	char path[URL_MAX];

	path_of(&n->fid, "", path);
	atomic_store(&n->delete_begun, true);
	assert_int_equal(http("DELETE", VOLUME, path, NULL, 0), 202);
	atomic_store(&n->deleted, true);
}

/* --- reading --- */

struct copy {
	size_t len;
	bool gzip;
	uint64_t expires_at_ns;
	uint8_t bytes[DATA_BYTES_MAX];
};

static int read_needle(const struct fid *fid, bool deleted, struct copy *ret)
{
	struct needle_place p;
	struct needle_info info;

	int err = store_find(c.store, fid, deleted, &p);
	if (err)
		return err;
	err = store_read_info(&p, fid, &info);
	if (!err && info.data_bytes > DATA_BYTES_MAX)
		err = -EFBIG;
	if (!err && pread(p.fd, ret->bytes, info.data_bytes, (off_t)info.data_offset) !=
			    (ssize_t)info.data_bytes)
		err = -EIO;
	if (!err && !crc32c_matches(info.crc32c, crc32c(0, ret->bytes, info.data_bytes)))
		err = -EBADMSG;
	store_unpin(&p);
	ret->len = info.data_bytes;
	ret->gzip = info.gzip;
	ret->expires_at_ns = info.expires_at_ns;
	return err;
}

static bool is_generation(const struct fid *fid, unsigned first, unsigned last,
			  const struct copy *copy)
{
	uint8_t data[DATA_BYTES_MAX];

	for (unsigned g = first; g <= last; g++)
		if (fill(fid, g, data) == copy->len && memcmp(data, copy->bytes, copy->len) == 0)
			return true;
	return false;
}

static void give_up(const char *what, const struct needle *n, int err)
{
	char fid[FID_STR_MAX];

	fid_format(&n->fid, fid);
	fprintf(stderr, "%s: %s: %s\n", fid, what, strerror(-err));
	abort();
}

/* What a reader sees must have been true at some time of its read. */
static void check_while_writing(struct needle *n, struct copy *copy)
{
	bool was_deleted = atomic_load(&n->deleted);
	unsigned first = atomic_load(&n->done);
	int err = read_needle(&n->fid, false, copy);
	unsigned last = atomic_load(&n->begun);

	atomic_fetch_add(&c.reads, 1);
	if (err == -EOPNOTSUPP) {
		atomic_fetch_add(&c.sent_away, 1);
		return;
	}
	if (err == -ENOENT && atomic_load(&n->delete_begun))
		return;
	if (err)
		give_up("cannot be read", n, err);
	if (was_deleted)
		give_up("was read after it was deleted", n, -EEXIST);
	if (!is_generation(&n->fid, first, last, copy))
		give_up("has other bytes", n, -EBADMSG);
}

static void *reader(void *arg)
{
	struct copy *copy = malloc(sizeof(*copy));
	unsigned random = (unsigned)(uintptr_t)arg;

	for (unsigned i = 0; copy && !atomic_load(&c.stop); i++) {
		size_t n = atomic_load(&c.n_needles);

		if (i % READS_PER_PAUSE == 0)
			sleep_ms(1, deadline_in_ms(FOLLOW_MS));
		if (n > 0)
			check_while_writing(&c.needles[(size_t)rand_r(&random) % n], copy);
	}
	free(copy);
	return NULL;
}

/* Every needle, from the store and from the server. */
static void compare_all_with_http(void)
{
	struct copy *copy = malloc(sizeof(*copy));
	size_t n = atomic_load(&c.n_needles);

	for (size_t i = 0; i < n; i++) {
		struct needle *needle = &c.needles[i];
		char path[URL_MAX];

		for (int deleted = 0; deleted <= 1; deleted++) {
			path_of(&needle->fid, deleted ? "?readDeleted=true" : "", path);
			long status = http("GET", VOLUME, path, NULL, 0);
			int err = read_needle(&needle->fid, deleted, copy);

			if (status == 404 && err == -ENOENT)
				continue;
			if (status != 200 || err)
				give_up("store and server do not agree", needle, err);
			assert_int_equal(copy->len, c.body->len);
			assert_memory_equal(copy->bytes, c.body->bytes, c.body->len);
		}
	}
	free(copy);
}

/* Until every volume that the server has is served. */
static void wait_until_all_served(void)
{
	struct deadline d = deadline_in_ms(FOLLOW_MS);
	struct needle_place p;

	for (size_t i = 0; i < atomic_load(&c.n_needles);) {
		int err = store_find(c.store, &c.needles[i].fid, false, &p);

		if (!err)
			store_unpin(&p);
		if (err != -EOPNOTSUPP) {
			i++;
			continue;
		}
		assert_false(deadline_passed(d));
		sleep_ms(5, d);
	}
}

static void open_store(void)
{
	const char *dirs[] = { "data" };
	const struct store_config cfg = { .dirs = dirs, .n_dirs = 1, .idx_dir = "idx" };

	assert_int_equal(store_open(&cfg, &c.store), 0);
}

/* --- tests, in this order --- */

static void test_what_was_written_before_and_after_the_start_is_read(void **state)
{
	(void)state;
	for (int i = 0; i < 50; i++)
		write_needle("", "");
	open_store();
	compare_all_with_http();
	for (int i = 0; i < 50; i++) {
		struct needle *n = write_needle("", "");
		struct copy copy;

		/* Its volume may be a new one. */
		if (store_has_volume(c.store, n->fid.volume_id))
			assert_int_equal(read_needle(&n->fid, false, &copy), 0);
	}
	wait_until_all_served();
	compare_all_with_http();
}

static void test_overwriting_and_deleting_is_seen_at_once(void **state)
{
	static struct copy copy;

	(void)state;
	for (size_t i = 0; i < 20; i++) {
		struct needle *n = &c.needles[i];

		put(n, "");
		assert_int_equal(read_needle(&n->fid, false, &copy), 0);
		assert_true(is_generation(&n->fid, 2, 2, &copy));
	}
	for (size_t i = 0; i < 10; i++) {
		delete_needle(&c.needles[i]);
		assert_int_equal(read_needle(&c.needles[i].fid, false, &copy), -ENOENT);
		assert_int_equal(read_needle(&c.needles[i].fid, true, &copy), 0);
		assert_true(is_generation(&c.needles[i].fid, 2, 2, &copy));
	}
	compare_all_with_http();
}

static void change_things(unsigned round)
{
	size_t n = atomic_load(&c.n_needles);

	for (size_t i = 10 + round; i < n; i += 7) {
		if (atomic_load(&c.needles[i].deleted))
			continue;
		if (i % 3 == 0)
			delete_needle(&c.needles[i]);
		else
			put(&c.needles[i], "");
		write_needle("", "");
	}
}

static void test_readers_are_right_all_through_vacuums(void **state)
{
	pthread_t readers[READERS];
	struct store_stats stats;

	(void)state;
	for (uintptr_t i = 0; i < READERS; i++)
		assert_int_equal(pthread_create(&readers[i], NULL, reader, (void *)(i + 1)), 0);
	for (unsigned round = 0; round < ROUNDS; round++) {
		change_things(round);
		assert_int_equal(
			http("GET", MASTER, "/vol/vacuum?garbageThreshold=0.0001", NULL, 0), 200);
		change_things(round + 1);
	}
	atomic_store(&c.stop, true);
	for (int i = 0; i < READERS; i++)
		pthread_join(readers[i], NULL);
	wait_until_all_served();
	compare_all_with_http();
	store_stats(c.store, &stats);
	printf("%zu reads, of which %zu were left to the server; %llu generations replaced\n",
	       atomic_load(&c.reads), atomic_load(&c.sent_away), (unsigned long long)stats.reloads);
	assert_true(stats.reloads > 0);
	assert_true(atomic_load(&c.reads) > 2 * atomic_load(&c.sent_away));
}

static void test_a_ttl_is_known(void **state)
{
	static struct copy copy;

	(void)state;
	struct needle *n = write_needle("?ttl=5m", "?ttl=5m");
	wait_until_all_served();
	assert_int_equal(read_needle(&n->fid, false, &copy), 0);
	assert_true(copy.expires_at_ns > 0);
	compare_all_with_http();
}

static void test_a_deleted_collection_is_gone(void **state)
{
	static struct copy copy;
	struct deadline d = deadline_in_ms(FOLLOW_MS);

	(void)state;
	struct needle *n = write_needle("?collection=two_words", "");
	wait_until_all_served();
	assert_int_equal(read_needle(&n->fid, false, &copy), 0);
	assert_int_equal(http("GET", MASTER, "/col/delete?collection=two_words", NULL, 0), 204);
	while (read_needle(&n->fid, false, &copy) != -EOPNOTSUPP)
		assert_false(deadline_passed(d));
	/* the other tests go without it */
	atomic_fetch_sub(&c.n_needles, 1);
	atomic_store(&n->done, 0);
}

static void test_an_encoded_volume_is_left_to_the_server(void **state)
{
	static struct copy copy;
	struct deadline d = deadline_in_ms(START_MS);
	char commands[URL_MAX], master[64];
	int status;

	(void)state;
	struct needle *n = write_needle("?collection=encoded", "");
	wait_until_all_served();
	snprintf(commands, sizeof(commands), "lock\nec.encode -volumeId=%u -force\nunlock\nexit\n",
		 n->fid.volume_id);
	int fd = open("commands", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_int_equal(write(fd, commands, strlen(commands)), strlen(commands));
	close(fd);
	snprintf(master, sizeof(master), "-master=127.0.0.1:%d.%d", c.ports[MASTER],
		 c.ports[MASTER_GRPC]);
	pid_t pid = spawn_weed("commands", (char *[]){ c.weed, "shell", master, NULL });
	assert_int_equal(waitpid(pid, &status, 0), pid);
	while (read_needle(&n->fid, false, &copy) != -EOPNOTSUPP)
		assert_false(deadline_passed(d));
	char path[URL_MAX];
	path_of(&n->fid, "", path);
	assert_int_equal(http("GET", VOLUME, path, NULL, 0), 200);
	atomic_fetch_sub(&c.n_needles, 1);
	atomic_store(&n->done, 0);
}

static void test_a_stopped_server_does_not_matter(void **state)
{
	static struct copy copy;

	(void)state;
	stop_server();
	store_close(c.store);
	open_store();
	for (size_t i = 0; i < atomic_load(&c.n_needles); i++) {
		struct needle *n = &c.needles[i];
		unsigned generation = atomic_load(&n->done);

		if (atomic_load(&n->deleted)) {
			assert_int_equal(read_needle(&n->fid, false, &copy), -ENOENT);
			continue;
		}
		assert_int_equal(read_needle(&n->fid, false, &copy), 0);
		assert_true(is_generation(&n->fid, generation, generation, &copy));
	}
}

/* --- all of it --- */

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st;
	(void)kind;
	(void)ftw;
	return remove(path);
}

static int tear_down(void **state)
{
	(void)state;
	store_close(c.store);
	stop_server();
	if (chdir("/") == 0)
		nftw(c.dir, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	curl_easy_cleanup(c.curl);
	free(c.body);
	free(c.needles);
	return 0;
}

static int set_up(void **state)
{
	struct deadline d = deadline_in_ms(START_MS);
	struct fid fid;

	(void)state;
	snprintf(c.dir, sizeof(c.dir), "/tmp/kelp-weed-XXXXXX");
	c.curl = curl_easy_init();
	c.body = malloc(sizeof(*c.body));
	c.needles = calloc(NEEDLES_MAX, sizeof(*c.needles));
	if (!c.curl || !c.body || !c.needles || !mkdtemp(c.dir) || chdir(c.dir) != 0 ||
	    mkdir("data", 0700) != 0 || mkdir("idx", 0700) != 0)
		return -1;
	choose_ports();
	start_server();
	while (!assign("", &fid)) {
		if (deadline_passed(d) || waitpid(c.pid, NULL, WNOHANG) != 0) {
			tear_down(state);
			return -1;
		}
		sleep_ms(100, d);
	}
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_what_was_written_before_and_after_the_start_is_read),
		cmocka_unit_test(test_overwriting_and_deleting_is_seen_at_once),
		cmocka_unit_test(test_readers_are_right_all_through_vacuums),
		cmocka_unit_test(test_a_ttl_is_known),
		cmocka_unit_test(test_a_deleted_collection_is_gone),
		cmocka_unit_test(test_an_encoded_volume_is_left_to_the_server),
		cmocka_unit_test(test_a_stopped_server_does_not_matter),
	};
	const char *weed = getenv("KELP_WEED");
	char path[PATH_MAX];

	if (!realpath(weed ? weed : ".venv/bin/weed", path) || strlen(path) >= sizeof(c.weed)) {
		fprintf(stderr, "skipped: no weed; KELP_WEED names it, scripts/setup gets it\n");
		return SKIP;
	}
	snprintf(c.weed, sizeof(c.weed), "%s", path);
	return cmocka_run_group_tests(tests, set_up, tear_down);
}
