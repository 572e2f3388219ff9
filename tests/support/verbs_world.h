/* An agent with one volume and memory to read into, in one process, over whatever RDMA device there is. */
#ifndef KELP_TEST_VERBS_WORLD_H
#define KELP_TEST_VERBS_WORLD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "rdma/agent/agent.h"
#include "rdma/agent/transport.h"
#include "rdma/session.h"
#include "rdma/transport.h"

#define PORT 28515
#define VOLUME 3
#define COOKIE 0xc00c1e00
#define SMALL_BYTES 5000
#define LARGE_BYTES ((size_t)4 << 20)
#define REGION_BYTES ((size_t)8 << 20)
/* Generous, because everything in a VM on a busy machine is slow. */
#define LEASE_MS 60000
#define BUDGET_MS 60000
#define CONNECTIONS_MAX 120

enum { SMALL = 1, LARGE, EMPTY, COMPRESSED };

struct world {
	char dir[64];
	char dat[80], idx[80];
	struct volume_files *volume;
	struct store *store;
	struct token_source *tokens;
	struct agent agent;
	struct listener *listener;
	struct client_address address;
	uint8_t *region; /* registered */
	uint8_t *large; /* what the needles hold */
};

/* Whether there is a device; without, the program has said so and is to end with status 77. */
bool verbs_world_possible(void);

/* Set-up and tear-down of a test. The latter sees to it that the agent has nothing left. */
int verbs_world_make(void **state);
int verbs_world_drop(void **state);

void start_agent(struct world *w, unsigned lease_ms);
/* Once at most; also what the tear-down does. */
void stop_agent(struct world *w);

struct deadline budget(void);

int try_open(struct world *w, struct client_session **ret, struct wire_hello_reply *hello);
struct client_session *open_session(struct world *w);

/* An extent of one of the needles. */
struct client_extent range_of(uint64_t key, uint64_t offset, const struct read_buf *bufs, size_t n);

void assert_reads(struct world *w, struct client_session *s, uint64_t key, uint64_t offset,
		  struct read_buf b);

#define VERBS_TEST(f) cmocka_unit_test_setup_teardown(f, verbs_world_make, verbs_world_drop)

#endif
