/* Many connections to an agent at once, over RDMA: makes them from several threads; when all are there, reads
 * the first bytes of a needle over each; says how many did both, and closes them when its standard input ends.
 *
 *   rdma_crowd IPV4-ADDRESS PORT CONNECTIONS FILE-ID */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "filer/fid.h"
#include "fs/launch.h"
#include "rdma/session.h"
#include "rdma/verbs.h"

#define THREADS 16
#define BUDGET_MS 300000 /* for one, with all others in the way, in a VM */
/* A request that the connection manager has lost is made anew. */
#define TRIES 20
#define TRY_MS 30000
#define READ_BYTES 4096

static struct {
	struct client_session_config cfg;
	struct fid fid;
	struct client_session **sessions;
	unsigned n;
	atomic_uint served;
} crowd;

/* One thing to do for each connection. Threads: each takes the next place that nobody has until there is none. */
struct round {
	void (*each)(unsigned i);
	atomic_uint next;
};

static void join_crowd(unsigned i)
{
	struct wire_hello_reply hello;
	int err = -ETIMEDOUT;

	for (unsigned tries = 0; tries < TRIES && err; tries++)
		err = client_session_open(&crowd.cfg, deadline_in_ms(TRY_MS), &crowd.sessions[i],
					  &hello);
	if (err)
		fprintf(stderr, "connection %u: %s\n", i, strerror(-err));
}

/* What comes is compared with its checksum. */
static void read_in_crowd(unsigned i)
{
	uint8_t data[READ_BYTES];
	struct read_buf buf = { .ptr = data, .len = sizeof(data) };
	struct client_extent e = { .fid = crowd.fid, .bufs = &buf, .n_bufs = 1 };

	if (!crowd.sessions[i])
		return;
	int err = client_session_read(crowd.sessions[i], &e, 1, deadline_in_ms(BUDGET_MS));
	if (!err)
		err = e.err;
	if (err)
		fprintf(stderr, "read over connection %u: %s\n", i, strerror(-err));
	else
		atomic_fetch_add(&crowd.served, 1);
}

static void leave_crowd(unsigned i)
{
	client_session_close(crowd.sessions[i], WIRE_SHUTDOWN);
}

static void *work(void *arg)
{
	struct round *r = arg;
	unsigned i;

	while ((i = atomic_fetch_add(&r->next, 1)) < crowd.n)
		r->each(i);
	return NULL;
}

static void all(void (*each)(unsigned i))
{
	struct round r = { .each = each };
	pthread_t threads[THREADS];

	for (unsigned i = 0; i < THREADS; i++)
		if (pthread_create(&threads[i], NULL, work, &r))
			abort();
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(threads[i], NULL);
}

static int take_arguments(int argc, char **argv)
{
	struct sockaddr_in *v4 = (struct sockaddr_in *)&crowd.cfg.address.sockaddr;

	if (argc != 5 || inet_pton(AF_INET, argv[1], &v4->sin_addr) != 1)
		return -EINVAL;
	v4->sin_family = AF_INET;
	v4->sin_port = htons((uint16_t)strtoul(argv[2], NULL, 10));
	crowd.n = (unsigned)strtoul(argv[3], NULL, 10);
	crowd.cfg.address.len = sizeof(*v4);
	crowd.cfg.transport = &client_verbs;
	crowd.cfg.answer_ms = crowd.cfg.stall_ms = BUDGET_MS;
	return fid_parse(argv[4], strlen(argv[4]), &crowd.fid);
}

int main(int argc, char **argv)
{
	char c;

	if (take_arguments(argc, argv))
		return 2;
	crowd.sessions = calloc(crowd.n, sizeof(struct client_session *));
	if (!crowd.sessions)
		return 1;
	launch_raise_file_limit();
	all(join_crowd);
	all(read_in_crowd);
	printf("%u of %u served\n", atomic_load(&crowd.served), crowd.n);
	fflush(stdout);
	while (read(STDIN_FILENO, &c, 1) > 0)
		;
	all(leave_crowd);
	free(crowd.sessions);
	verbs_release();
	return crowd.served < crowd.n;
}
