/* Thread model: one thread accepts, one thread per connection; the lock protects what they share with
 * the test. stop_fd becomes readable when everything is to end. */
#include "tests/support/scripted_agent.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "filer/base/crc32c.h"
#include "rdma/wire.h"

#define CONNECTIONS_MAX 256
#define HOLD_MAX 64

struct held {
	uint64_t xid;
	struct wire_read read;
};

struct agent_connection {
	struct scripted_agent *agent;
	pthread_t thread;
	int fd; /* -1: closed; only its own thread changes it, under the agent's lock */
	unsigned n_held;
	struct held held[HOLD_MAX];
	uint8_t payload[WIRE_MESSAGE_BYTES_MAX];
};

struct scripted_agent {
	struct agent_script script;
	atomic_int fault;
	int listen_fd;
	int stop_fd;
	uint16_t port;
	pthread_t thread;

	pthread_mutex_t lock; /* protects all below */
	struct agent_connection *connections[CONNECTIONS_MAX];
	size_t n_connections;
	size_t reads;
	size_t pongs;
	char hello_token[WIRE_TOKEN_BYTES_MAX + 1];
	char read_token[WIRE_TOKEN_BYTES_MAX + 1];
};

static void require(bool ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	abort();
}

void scripted_agent_bytes(const struct fid *fid, uint64_t offset, uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t at = offset + i;
		p[i] = (uint8_t)(fid->key * 31 + at * 7 + (at >> 8));
	}
}

static bool send_all(struct agent_connection *c, const uint8_t *p, size_t len)
{
	while (len > 0) {
		ssize_t n = send(c->fd, p, len, MSG_NOSIGNAL);
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

static bool send_noise(struct agent_connection *c)
{
	uint8_t noise[256];

	memset(noise, 0xa5, sizeof(noise));
	return send_all(c, noise, sizeof(noise));
}

static void hang(struct agent_connection *c)
{
	char dropped[1024];

	while (recv(c->fd, dropped, sizeof(dropped), 0) > 0)
		;
}

static bool receive_all(struct agent_connection *c, uint8_t *p, size_t len)
{
	return len == 0 || recv(c->fd, p, len, MSG_WAITALL) == (ssize_t)len;
}

static bool receive_message(struct agent_connection *c, struct wire_header *ret)
{
	uint8_t header[WIRE_HEADER_BYTES];

	return receive_all(c, header, sizeof(header)) &&
	       wire_decode_header(header, sizeof(header), ret) == 0 &&
	       receive_all(c, c->payload, ret->length);
}

static bool send_bare(struct agent_connection *c, enum wire_type type, unsigned credits)
{
	const struct wire_header h = { .type = (uint8_t)type,
				       .version = WIRE_VERSION,
				       .credits = (uint16_t)credits };
	uint8_t message[WIRE_HEADER_BYTES];

	wire_encode_header(message, &h);
	return send_all(c, message, sizeof(message));
}

static bool send_goodbye(struct agent_connection *c, uint8_t reason)
{
	const struct wire_header h = { .version = WIRE_VERSION };
	const struct wire_goodbye bye = { .reason = reason, .text = "so it is written" };
	uint8_t message[WIRE_MESSAGE_BYTES_MAX];
	size_t len;

	require(wire_encode_goodbye(message, sizeof(message), h, &bye, &len) == 0, "goodbye");
	return send_all(c, message, len);
}

/* --- hello --- */

static bool send_hello_reply(struct agent_connection *c, enum agent_fault fault)
{
	const struct agent_script *script = &c->agent->script;
	struct wire_header h = { .version = WIRE_VERSION, .credits = (uint16_t)script->credits };
	struct wire_hello_reply reply = {
		.version = WIRE_VERSION,
		.token_needed = script->token_needed,
		.capabilities = WIRE_CAP_STREAM,
		.transfer_bytes_max = WIRE_EXTENT_BYTES_MAX,
		.sessions_max = CONNECTIONS_MAX,
		.software = "scripted",
	};
	uint8_t message[WIRE_MESSAGE_BYTES_MAX];
	size_t len;

	if (script->told_port) {
		strcpy(reply.addresses[0].host, "127.0.0.1");
		reply.addresses[0].port = script->told_port;
		reply.n_addresses = 1;
	}
	if (fault == AGENT_HELLO_REFUSED) {
		reply.status = script->hello_status;
		strcpy(reply.text, "so it is written");
	}
	if (fault == AGENT_HELLO_OTHER_VERSION)
		h.version = reply.version = WIRE_VERSION + 1;
	require(wire_encode_hello_reply(message, sizeof(message), h, &reply, &len) == 0, "hello");
	if (!send_all(c, message, len))
		return false;
	if (script->late_credits_ms) {
		sleep_ms(script->late_credits_ms, deadline_in_ms(script->late_credits_ms));
		return send_bare(c, WIRE_CREDIT, 1);
	}
	return true;
}

static void keep_token(struct scripted_agent *a, char *to, const char *token, size_t len)
{
	pthread_mutex_lock(&a->lock);
	memcpy(to, token, len);
	to[len] = '\0';
	pthread_mutex_unlock(&a->lock);
}

static bool on_hello(struct agent_connection *c, const struct wire_header *h)
{
	enum agent_fault fault = (enum agent_fault)atomic_load(&c->agent->fault);
	struct wire_hello hello;

	require(wire_decode_hello(c->payload, h->length, &hello) == 0, "hello");
	keep_token(c->agent, c->agent->hello_token, hello.token, hello.token_len);
	switch (fault) {
	case AGENT_HELLO_STALLS:
		hang(c);
		return false;
	case AGENT_HELLO_NOISE:
		return send_noise(c);
	case AGENT_HELLO_CLOSES:
		return false;
	case AGENT_HELLO_GOODBYE:
		return send_goodbye(c, c->agent->script.hello_status);
	default:
		return send_hello_reply(c, fault);
	}
}

/* --- reads --- */

static void make_result(const struct agent_script *script, enum agent_fault fault,
			const struct wire_extent *e, uint8_t *data, struct wire_result *ret)
{
	bool whole = e->flags & WIRE_EXTENT_WHOLE;
	uint64_t offset = whole ? 0 : e->offset;
	uint64_t length = whole ? script->needle_bytes : e->length;

	*ret = (struct wire_result){ .length = length, .needle_length = script->needle_bytes };
	if (offset + length > script->needle_bytes) {
		*ret = (struct wire_result){ .status = WIRE_RANGE };
		return;
	}
	scripted_agent_bytes(&e->fid, offset, data, length + 1);
	if (whole || script->crc) {
		ret->flags = whole ? WIRE_RESULT_CRC_WHOLE : WIRE_RESULT_CRC_RANGE;
		ret->crc32c = crc32c(0, data, length);
	}
	if (script->gzip)
		ret->flags |= WIRE_RESULT_GZIP;
	if (fault == AGENT_FLIPS_A_BIT)
		data[length / 2] ^= 4;
	if (fault == AGENT_LONGER)
		ret->needle_length = ++ret->length + offset;
	if (fault == AGENT_SHORTER)
		ret->length--;
	if (fault == AGENT_NEEDLE_TOO_SHORT)
		ret->needle_length = offset + length - 1;
	if (fault == AGENT_LEASES)
		ret->flags |= WIRE_RESULT_LEASE;
}

static void spoil_reply(enum agent_fault fault, struct wire_header *h,
			struct wire_read_reply *reply)
{
	if (fault == AGENT_WRONG_XID)
		h->xid += 256;
	if (fault == AGENT_MORE_RESULTS)
		reply->results[reply->n_results++] = (struct wire_result){ 0 };
	if (fault == AGENT_BAD_STATUS)
		reply->results[0] = (struct wire_result){ .status = WIRE_STATUS_MAX + 1 };
	if (fault == AGENT_SAYS_MALFORMED)
		reply->results[0] = (struct wire_result){ .status = WIRE_MALFORMED };
	if (fault == AGENT_NOT_FOUND)
		reply->results[0] = (struct wire_result){ .status = WIRE_NOT_FOUND };
	if (fault == AGENT_BUSY)
		reply->results[0] = (struct wire_result){ .status = WIRE_BUSY };
	if (fault == AGENT_SECOND_NOT_FOUND && reply->n_results > 1)
		reply->results[1] = (struct wire_result){ .status = WIRE_NOT_FOUND };
}

/* In one piece, as an agent does where it can. */
static bool send_reply(struct agent_connection *c, const struct held *held, enum agent_fault fault)
{
	struct wire_header h = { .version = WIRE_VERSION, .xid = held->xid, .credits = 1 };
	struct wire_read_reply reply = { .n_results = held->read.n_extents };
	uint8_t *data[WIRE_EXTENTS_MAX];
	size_t bytes = WIRE_MESSAGE_BYTES_MAX, len;
	bool ok;

	for (size_t i = 0; i < reply.n_results; i++) {
		const struct wire_extent *e = &held->read.extents[i];

		data[i] = malloc(max_u64(e->length, c->agent->script.needle_bytes) + 1);
		require(data[i] != NULL, "malloc");
		make_result(&c->agent->script, fault, e, data[i], &reply.results[i]);
	}
	spoil_reply(fault, &h, &reply);
	for (size_t i = 0; i < held->read.n_extents; i++)
		bytes += reply.results[i].length;
	uint8_t *message = malloc(bytes);
	require(message != NULL, "malloc");
	require(wire_encode_read_reply(message, WIRE_MESSAGE_BYTES_MAX, h, &reply, &len) == 0,
		"reply");
	size_t head = len;
	for (size_t i = 0; i < held->read.n_extents; i++) {
		memcpy(message + len, data[i], reply.results[i].length);
		len += reply.results[i].length;
		free(data[i]);
	}
	if (fault == AGENT_STALLS_IN_DATA || fault == AGENT_BREAKS_OFF)
		len = head + (len - head) / 2;
	ok = send_all(c, message, len);
	if (ok && fault == AGENT_ANSWERS_TWICE)
		ok = send_all(c, message, len);
	free(message);
	if (ok && fault == AGENT_STALLS_IN_DATA)
		hang(c);
	return ok && fault != AGENT_BREAKS_OFF;
}

static bool send_huge_message(struct agent_connection *c)
{
	const struct wire_header h = { .type = WIRE_READ_REPLY,
				       .version = WIRE_VERSION,
				       .length = UINT32_MAX };
	uint8_t message[WIRE_HEADER_BYTES];

	wire_encode_header(message, &h);
	return send_all(c, message, sizeof(message));
}

static bool ping_and_wait(struct agent_connection *c)
{
	struct wire_header h;

	if (!send_bare(c, WIRE_PING, 0) || !receive_message(c, &h))
		return false;
	require(h.type == WIRE_PONG, "no pong");
	pthread_mutex_lock(&c->agent->lock);
	c->agent->pongs++;
	pthread_mutex_unlock(&c->agent->lock);
	return true;
}

/* What is done instead of an answer. *ret_over: that was all. */
static bool instead(struct agent_connection *c, enum agent_fault fault, bool *ret_over)
{
	*ret_over = true;
	switch (fault) {
	case AGENT_STALLS:
		hang(c);
		return false;
	case AGENT_CLOSES:
		return false;
	case AGENT_GOODBYE:
		return send_goodbye(c, WIRE_SHUTDOWN);
	case AGENT_NOISE:
		return send_noise(c);
	case AGENT_HUGE_MESSAGE:
		return send_huge_message(c);
	case AGENT_READS_TO_US:
		return send_bare(c, WIRE_READ, 0);
	case AGENT_PINGS_ALWAYS:
		while (ping_and_wait(c))
			;
		return false;
	case AGENT_PINGS_FIRST:
		*ret_over = false;
		return ping_and_wait(c);
	default:
		*ret_over = false;
		return true;
	}
}

static bool on_read(struct agent_connection *c, const struct wire_header *h)
{
	struct scripted_agent *a = c->agent;
	enum agent_fault fault = (enum agent_fault)atomic_load(&a->fault);
	struct held *held = &c->held[c->n_held++];
	bool over;

	held->xid = h->xid;
	require(wire_decode_read(c->payload, h->length, &held->read) == 0, "read");
	keep_token(a, a->read_token, held->read.extents[0].token, held->read.extents[0].token_len);
	pthread_mutex_lock(&a->lock);
	a->reads++;
	pthread_mutex_unlock(&a->lock);
	bool ok = instead(c, fault, &over);
	if (!ok || over)
		return ok;
	if (c->n_held < a->script.hold)
		return true;
	while (ok && c->n_held > 0)
		ok = send_reply(c, &c->held[--c->n_held], fault);
	return ok;
}

static bool on_message(struct agent_connection *c, const struct wire_header *h)
{
	switch (h->type) {
	case WIRE_HELLO:
		return on_hello(c, h);
	case WIRE_READ:
		return on_read(c, h);
	case WIRE_PING: {
		struct wire_header pong = { .type = WIRE_PONG,
					    .version = WIRE_VERSION,
					    .xid = h->xid };
		uint8_t message[WIRE_HEADER_BYTES];

		wire_encode_header(message, &pong);
		return send_all(c, message, sizeof(message));
	}
	default:
		return h->type != WIRE_GOODBYE;
	}
}

/* --- life --- */

static void *serve(void *arg)
{
	struct agent_connection *c = arg;
	struct wire_header h;

	while (receive_message(c, &h) && on_message(c, &h))
		;
	pthread_mutex_lock(&c->agent->lock);
	close(c->fd);
	c->fd = -1;
	pthread_mutex_unlock(&c->agent->lock);
	return NULL;
}

static void start_connection(struct scripted_agent *a, int fd)
{
	struct agent_connection *c = calloc(1, sizeof(*c));
	int on = 1;

	require(c != NULL, "calloc");
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	c->agent = a;
	c->fd = fd;
	pthread_mutex_lock(&a->lock);
	require(a->n_connections < CONNECTIONS_MAX, "too many connections");
	a->connections[a->n_connections++] = c;
	require(pthread_create(&c->thread, NULL, serve, c) == 0, "pthread_create");
	pthread_mutex_unlock(&a->lock);
}

static void *accept_connections(void *arg)
{
	struct scripted_agent *a = arg;
	struct pollfd fds[] = {
		{ .fd = a->listen_fd, .events = POLLIN },
		{ .fd = a->stop_fd, .events = POLLIN },
	};

	while (poll(fds, 2, -1) > 0 && !fds[1].revents) {
		int fd = accept4(a->listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0)
			start_connection(a, fd);
	}
	return NULL;
}

struct scripted_agent *scripted_agent_start(const struct agent_script *script, uint16_t port)
{
	struct scripted_agent *a = calloc(1, sizeof(*a));
	struct sockaddr_in addr = { .sin_family = AF_INET, .sin_port = htons(port) };
	socklen_t len = sizeof(addr);
	int on = 1;

	require(a != NULL, "calloc");
	a->script = *script;
	atomic_init(&a->fault, (int)script->fault);
	pthread_mutex_init(&a->lock, NULL);
	a->stop_fd = eventfd(0, EFD_CLOEXEC);
	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	a->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	require(a->stop_fd >= 0 && a->listen_fd >= 0, "socket");
	setsockopt(a->listen_fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	require(bind(a->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) == 0, "bind");
	require(listen(a->listen_fd, CONNECTIONS_MAX) == 0, "listen");
	require(getsockname(a->listen_fd, (struct sockaddr *)&addr, &len) == 0, "getsockname");
	a->port = ntohs(addr.sin_port);
	require(pthread_create(&a->thread, NULL, accept_connections, a) == 0, "pthread_create");
	return a;
}

void scripted_agent_stop(struct scripted_agent *a)
{
	if (!a)
		return;
	require(eventfd_write(a->stop_fd, 1) == 0, "eventfd_write");
	pthread_join(a->thread, NULL);
	pthread_mutex_lock(&a->lock);
	for (size_t i = 0; i < a->n_connections; i++)
		if (a->connections[i]->fd >= 0)
			shutdown(a->connections[i]->fd, SHUT_RDWR);
	pthread_mutex_unlock(&a->lock);
	/* No connection is added any more, so this needs no lock. */
	for (size_t i = 0; i < a->n_connections; i++) {
		pthread_join(a->connections[i]->thread, NULL);
		free(a->connections[i]);
	}
	close(a->listen_fd);
	close(a->stop_fd);
	pthread_mutex_destroy(&a->lock);
	free(a);
}

void scripted_agent_set_fault(struct scripted_agent *a, enum agent_fault fault)
{
	atomic_store(&a->fault, (int)fault);
}

uint16_t scripted_agent_port(const struct scripted_agent *a)
{
	return a->port;
}

static size_t read_count(struct scripted_agent *a, const size_t *count)
{
	LOCK_SCOPE(&a->lock);

	return *count;
}

size_t scripted_agent_connections(struct scripted_agent *a)
{
	return read_count(a, &a->n_connections);
}

size_t scripted_agent_reads(struct scripted_agent *a)
{
	return read_count(a, &a->reads);
}

size_t scripted_agent_pongs(struct scripted_agent *a)
{
	return read_count(a, &a->pongs);
}

void scripted_agent_tokens(struct scripted_agent *a, char hello[1025], char read[1025])
{
	LOCK_SCOPE(&a->lock);

	memcpy(hello, a->hello_token, sizeof(a->hello_token));
	memcpy(read, a->read_token, sizeof(a->read_token));
}
