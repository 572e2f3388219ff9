#include "tests/support/verbs_world.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "rdma/agent/verbs.h"
#include "rdma/device.h"
#include "rdma/verbs.h"
#include "tests/support/volume_files.h"

bool verbs_world_possible(void)
{
	struct wire_address a;

	if (device_addresses(PORT, &a, 1) == 1)
		return true;
	fprintf(stderr, "skipped: no RDMA device with an address (scripts/vm has one)\n");
	return false;
}

struct deadline budget(void)
{
	return deadline_in_ms(BUDGET_MS);
}

static void write_volume(struct world *w)
{
	struct record_shape gzip = { .data = w->large, .len = 100000, .flags = RECORD_GZIP };

	for (size_t i = 0; i < LARGE_BYTES; i++)
		w->large[i] = (uint8_t)(i * 2654435761u >> 13);
	snprintf(w->dat, sizeof(w->dat), "%s/%d.dat", w->dir, VOLUME);
	snprintf(w->idx, sizeof(w->idx), "%s/%d.idx", w->dir, VOLUME);
	w->volume = volume_files_new(w->dat, w->idx, &(struct volume_shape){ 0 });
	volume_files_put(w->volume, SMALL, COOKIE, w->large, SMALL_BYTES);
	volume_files_put(w->volume, LARGE, COOKIE, w->large, LARGE_BYTES);
	volume_files_put(w->volume, EMPTY, COOKIE, "", 0);
	volume_files_put_shaped(w->volume, COMPRESSED, COOKIE, &gzip);
}

void start_agent(struct world *w, unsigned lease_ms)
{
	struct agent_config cfg = { .store = w->store,
				    .tokens = w->tokens,
				    .connections_max = CONNECTIONS_MAX,
				    .lease_ms = lease_ms,
				    .software = "test" };
	struct listener_config listen = { .port = PORT, .threads = 1 };

	agent_init(&w->agent, &cfg);
	assert_int_equal(agent_verbs.listen(&w->agent, &listen, &w->listener), 0);
}

void stop_agent(struct world *w)
{
	if (!w->listener)
		return;
	agent_verbs.stop(w->listener, deadline_in_ms(2000));
	w->listener = NULL;
	assert_int_equal(atomic_load(&w->agent.active), 0);
	assert_int_equal(atomic_load(&w->agent.staging.used_bytes), 0);
}

static void find_address(struct world *w)
{
	struct wire_address a;
	struct sockaddr_in *v4 = (struct sockaddr_in *)&w->address.sockaddr;

	assert_int_equal(device_addresses(PORT, &a, 1), 1);
	v4->sin_family = AF_INET;
	v4->sin_port = htons(PORT);
	assert_int_equal(inet_pton(AF_INET, a.host, &v4->sin_addr), 1);
	w->address.len = sizeof(*v4);
}

int verbs_world_make(void **state)
{
	struct world *w = calloc(1, sizeof(*w));
	unsigned line;

	snprintf(w->dir, sizeof(w->dir), "/tmp/kelp-verbs-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	w->large = malloc(LARGE_BYTES);
	w->region = mmap(NULL, REGION_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			 -1, 0);
	assert_ptr_not_equal(w->region, MAP_FAILED);
	assert_int_equal(verbs_region_add(1, w->region, REGION_BYTES), 0);
	write_volume(w);
	const char *dirs[] = { w->dir };
	struct store_config store = { .dirs = dirs, .n_dirs = 1 };
	assert_int_equal(store_open(&store, &w->store), 0);
	assert_int_equal(token_source_new(NULL, &line, &w->tokens), 0);
	start_agent(w, LEASE_MS);
	find_address(w);
	*state = w;
	return 0;
}

int verbs_world_drop(void **state)
{
	struct world *w = *state;

	stop_agent(w);
	verbs_release();
	token_source_free(w->tokens);
	store_close(w->store);
	volume_files_free(w->volume);
	munmap(w->region, REGION_BYTES);
	free(w->large);
	unlink(w->dat);
	unlink(w->idx);
	rmdir(w->dir);
	free(w);
	return 0;
}

int try_open(struct world *w, struct client_session **ret, struct wire_hello_reply *hello)
{
	struct client_session_config cfg = { .transport = &client_verbs,
					     .address = w->address,
					     .stall_ms = 20000,
					     .answer_ms = 20000 };

	return client_session_open(&cfg, budget(), ret, hello);
}

struct client_session *open_session(struct world *w)
{
	struct wire_hello_reply hello;
	struct client_session *s;

	assert_int_equal(try_open(w, &s, &hello), 0);
	return s;
}

struct client_extent range_of(uint64_t key, uint64_t offset, const struct read_buf *bufs, size_t n)
{
	return (struct client_extent){ .fid = { .volume_id = VOLUME, .key = key, .cookie = COOKIE },
				       .offset = offset,
				       .bufs = bufs,
				       .n_bufs = n };
}

void assert_reads(struct world *w, struct client_session *s, uint64_t key, uint64_t offset,
		  struct read_buf b)
{
	struct client_extent e = range_of(key, offset, &b, 1);

	memset(b.ptr, 0xee, b.len);
	assert_int_equal(client_session_read(s, &e, 1, budget()), 0);
	assert_int_equal(e.err, 0);
	assert_int_equal(e.got, b.len);
	assert_memory_equal(b.ptr, w->large + offset, b.len);
}
