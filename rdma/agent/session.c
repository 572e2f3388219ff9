#include "rdma/agent/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "filer/base/base.h"
#include "rdma/agent/agent.h"
#include "rdma/agent/request.h"
#include "rdma/agent/transport.h"

/* Requests that are kept for the next read; the rest is freed once the connection is quiet. */
#define QUIET_MS 5000

enum session_state {
	SESSION_HELLO, /* the first message has to be a hello */
	SESSION_OPEN,
	SESSION_ENDING, /* takes no message; a goodbye follows the answers under way */
	SESSION_ENDED, /* the last output is with the transport */
};

/* What may happen to it. */
enum session_event {
	EVENT_MESSAGE_REFUSED, /* the peer broke the protocol, was refused, or idle: see reason */
	EVENT_REQUEST_OVER,
	EVENT_PEER_LEAVES,
	EVENT_HELLO_ACCEPTED,
};

/* Requests of one extent are the usual ones, and much smaller than those of many. */
enum request_size {
	REQUEST_SINGLE,
	REQUEST_MANY,
	REQUEST_SIZES,
};

struct session {
	struct request_host host; /* first */
	enum session_state state;
	bool refused;
	enum wire_status reason; /* of the goodbye */
	const char *text;
	unsigned credits; /* reads that the client may still send */
	unsigned under_way; /* requests */
	int64_t since_ms; /* the last message, or the start */
	struct request *spare[REQUEST_SIZES];
	bool control_busy;
	struct output control; /* answers to hello and ping; one at a time */
	struct output farewell;
};

static struct agent_counters *counters(struct session *s)
{
	return &s->host.agent->counters;
}

static void say_goodbye(struct session *s)
{
	struct wire_header h = { .version = WIRE_VERSION };
	struct wire_goodbye m = { .reason = (uint8_t)s->reason };

	s->state = SESSION_ENDED;
	if (s->host.lost)
		return;
	snprintf(m.text, sizeof(m.text), "%s", s->text);
	s->farewell.last = true;
	if (wire_encode_goodbye(s->farewell.message, sizeof(s->farewell.message), h, &m,
				&s->farewell.message_bytes) == 0)
		s->host.transport->send(s->host.connection, &s->farewell);
}

/* The one place where a session changes its state, but for what say_goodbye() ends. */
static void advance(struct session *s, enum session_event e)
{
	switch (s->state) {
	case SESSION_HELLO:
		if (e == EVENT_HELLO_ACCEPTED)
			s->state = SESSION_OPEN;
		else
			s->state = SESSION_ENDING;
		break;
	case SESSION_OPEN:
		if (e == EVENT_MESSAGE_REFUSED || e == EVENT_PEER_LEAVES)
			s->state = SESSION_ENDING;
		break;
	case SESSION_ENDING:
	case SESSION_ENDED:
		break;
	}
	if (s->state == SESSION_ENDING && s->under_way == 0)
		say_goodbye(s);
}

/* text is a constant. */
static void end(struct session *s, enum wire_status reason, const char *text)
{
	if (s->state >= SESSION_ENDING)
		return;
	s->reason = reason;
	s->text = text;
	if (reason == WIRE_MALFORMED)
		agent_count(&counters(s)->malformed, 1);
	advance(s, EVENT_MESSAGE_REFUSED);
}

/* --- messages out --- */

static void control_done(struct output *o)
{
	struct session *s = (struct session *)((char *)o - offsetof(struct session, control));

	s->control_busy = false;
}

static void farewell_done(struct output *o)
{
	(void)o;
}

/* The message is in s->control. */
static void send_control(struct session *s)
{
	s->control_busy = true;
	s->host.transport->send(s->host.connection, &s->control);
}

static void describe_agent(const struct session *s, struct wire_hello_reply *m)
{
	struct agent *a = s->host.agent;

	m->version = WIRE_VERSION;
	m->token_needed = token_has_volume_key(a->cfg.tokens);
	m->capabilities = s->host.transport->capabilities;
	m->inline_bytes_max = (uint32_t)s->host.inline_bytes_max;
	m->lease_ms = a->cfg.lease_ms;
	m->sessions_max = a->cfg.connections_max;
	m->sessions_active = atomic_load_explicit(&a->active, memory_order_relaxed);
	m->transfer_bytes_max = WIRE_EXTENT_BYTES_MAX;
	m->staging_bytes_max = m->capabilities & WIRE_CAP_LEASE
				       ? a->cfg.lease_connection_bytes_max
				       : a->cfg.staging_connection_bytes_max;
	snprintf(m->software, sizeof(m->software), "%s", a->cfg.software);
	memcpy(m->device, a->device, sizeof(m->device));
	memcpy(m->port_gid, a->port_gid, sizeof(m->port_gid));
	m->port_lid = a->port_lid;
	m->vendor_id = a->vendor_id;
	m->n_addresses = a->n_addresses;
	memcpy(m->addresses, a->addresses, sizeof(m->addresses));
}

/* status other than WIRE_OK: the connection ends behind the reply. */
static void reply_hello(struct session *s, uint64_t xid, enum wire_status status, const char *text)
{
	struct wire_header h = { .version = WIRE_VERSION, .xid = xid };
	struct wire_hello_reply m = { .status = (uint8_t)status };

	describe_agent(s, &m);
	snprintf(m.text, sizeof(m.text), "%s", status == WIRE_OK ? "" : text);
	if (status == WIRE_OK) {
		s->credits = h.credits = AGENT_CREDITS;
		advance(s, EVENT_HELLO_ACCEPTED);
	}
	if (wire_encode_hello_reply(s->control.message, sizeof(s->control.message), h, &m,
				    &s->control.message_bytes) == 0)
		send_control(s);
	if (status != WIRE_OK)
		end(s, status, text);
}

/* --- messages in --- */

static void on_hello(struct session *s, const struct wire_header *h, const uint8_t *payload)
{
	struct token_source *tokens = s->host.agent->cfg.tokens;
	struct wire_hello m;

	/* Others may have another hello; only the header stays for ever. */
	if (h->version != WIRE_VERSION) {
		agent_count(&counters(s)->version_refused, 1);
		reply_hello(s, h->xid, WIRE_VERSION_REFUSED, "this agent speaks version 1");
		return;
	}
	if (wire_decode_hello(payload, h->length, &m)) {
		end(s, WIRE_MALFORMED, "malformed hello");
		return;
	}
	if (m.version_min > WIRE_VERSION || m.version_max < WIRE_VERSION) {
		agent_count(&counters(s)->version_refused, 1);
		reply_hello(s, h->xid, WIRE_VERSION_REFUSED, "this agent speaks version 1");
		return;
	}
	if (s->refused) {
		agent_count(&counters(s)->refused, 1);
		reply_hello(s, h->xid, WIRE_EXHAUSTED,
			    "the agent's connection limit is reached (--max-connections)");
		return;
	}
	if (m.token_len && token_has_volume_key(tokens)) {
		if (token_check_agent(tokens, m.token, m.token_len)) {
			reply_hello(s, h->xid, WIRE_DENIED, "the token is wrong or out of date");
			return;
		}
		s->host.authorised = true;
	}
	if (s->host.inline_bytes_max > m.inline_bytes_max)
		s->host.inline_bytes_max = m.inline_bytes_max;
	reply_hello(s, h->xid, WIRE_OK, "");
}

static void give_back_leases(struct session *s, const uint64_t *ids, size_t n)
{
	struct staged staged;

	/* Those that are not there any more have expired on the way. Who sees that the memory is free
	 * finds the lease counted, here and where leases expire. */
	for (size_t i = 0; i < n; i++) {
		if (lease_end(&s->host.leases, ids[i], &staged))
			continue;
		agent_count(&s->host.agent->counters.leases_returned, 1);
		s->host.transport->unstage(s->host.connection, &staged);
	}
}

static enum request_size size_for(size_t n_extents)
{
	return n_extents == 1 ? REQUEST_SINGLE : REQUEST_MANY;
}

static struct request *take_request(struct session *s, size_t n_extents)
{
	enum request_size size = size_for(n_extents);
	struct request *r = s->spare[size];

	if (!r)
		return request_new(&s->host, size == REQUEST_SINGLE ? 1 : WIRE_EXTENTS_MAX);
	s->spare[size] = r->next;
	return r;
}

static void request_over(struct request *r)
{
	struct session *s = (struct session *)((char *)r->host - offsetof(struct session, host));
	enum request_size size = size_for(r->pieces_max);

	r->next = s->spare[size];
	s->spare[size] = r;
	s->under_way--;
	s->credits++;
	advance(s, EVENT_REQUEST_OVER);
}

static void on_read(struct session *s, const struct wire_header *h, const uint8_t *payload)
{
	struct wire_read m;

	if (wire_decode_read(payload, h->length, &m)) {
		end(s, WIRE_MALFORMED, "malformed read");
		return;
	}
	give_back_leases(s, m.completes, m.n_completes);
	if (s->credits == 0) {
		end(s, WIRE_MALFORMED, "more reads than credits");
		return;
	}
	struct request *r = take_request(s, m.n_extents);
	if (!r) {
		end(s, WIRE_BUSY, "the agent is out of memory");
		return;
	}
	s->credits--;
	s->under_way++;
	request_start(r, h->xid, &m);
}

static void on_complete(struct session *s, const struct wire_header *h, const uint8_t *payload)
{
	struct wire_complete m;

	if (wire_decode_complete(payload, h->length, &m))
		end(s, WIRE_MALFORMED, "malformed completion");
	else
		give_back_leases(s, m.leases, m.n);
}

static void on_ping(struct session *s, const struct wire_header *h)
{
	struct wire_header pong = { .type = WIRE_PONG, .version = WIRE_VERSION, .xid = h->xid };

	if (h->length) {
		end(s, WIRE_MALFORMED, "malformed ping");
		return;
	}
	if (wire_encode_bare(s->control.message, sizeof(s->control.message), pong,
			     &s->control.message_bytes) == 0)
		send_control(s);
}

static void on_goodbye(struct session *s, const struct wire_header *h, const uint8_t *payload)
{
	struct wire_goodbye m;

	if (wire_decode_goodbye(payload, h->length, &m)) {
		end(s, WIRE_MALFORMED, "malformed goodbye");
		return;
	}
	s->reason = WIRE_OK;
	s->text = "";
	advance(s, EVENT_PEER_LEAVES);
}

static void on_open_message(struct session *s, const struct wire_header *h, const uint8_t *payload)
{
	switch (h->type) {
	case WIRE_READ:
		on_read(s, h, payload);
		break;
	case WIRE_COMPLETE:
		on_complete(s, h, payload);
		break;
	case WIRE_PING:
		on_ping(s, h);
		break;
	case WIRE_GOODBYE:
		on_goodbye(s, h, payload);
		break;
	case WIRE_PONG:
	case WIRE_CREDIT:
		if (h->length)
			end(s, WIRE_MALFORMED, "malformed message");
		break;
	default:
		end(s, WIRE_MALFORMED, "a message that only agents send, or a second hello");
		break;
	}
}

void session_message(struct session *s, const struct wire_header *h, const uint8_t *payload)
{
	s->since_ms = now_ms();
	switch (s->state) {
	case SESSION_HELLO:
		if (h->type == WIRE_HELLO)
			on_hello(s, h, payload);
		else
			end(s, WIRE_MALFORMED, "the first message is not a hello");
		break;
	case SESSION_OPEN:
		if (h->version == WIRE_VERSION)
			on_open_message(s, h, payload);
		else
			end(s, WIRE_MALFORMED, "a message of another version");
		break;
	case SESSION_ENDING:
	case SESSION_ENDED:
		break;
	}
}

void session_malformed(struct session *s)
{
	end(s, WIRE_MALFORMED, "not a message of this protocol");
}

bool session_wants(const struct session *s)
{
	return s->state < SESSION_ENDING && !s->control_busy;
}

/* --- time, and the end --- */

static void free_spare(struct session *s)
{
	for (size_t i = 0; i < REQUEST_SIZES; i++) {
		while (s->spare[i]) {
			struct request *r = s->spare[i];

			s->spare[i] = r->next;
			request_free(r);
		}
	}
}

static void expire_leases(struct session *s, int64_t now)
{
	struct staged staged;

	while (lease_expire(&s->host.leases, now, &staged) == 0) {
		agent_count(&s->host.agent->counters.leases_expired, 1);
		s->host.transport->unstage(s->host.connection, &staged);
	}
}

void session_tick(struct session *s, int64_t now)
{
	expire_leases(s, now);
	/* Idle is who waits for nothing. */
	if (s->under_way > 0) {
		s->since_ms = now;
		return;
	}
	int64_t quiet_ms = now - s->since_ms;
	if (quiet_ms >= QUIET_MS)
		free_spare(s);
	if (s->state == SESSION_HELLO && quiet_ms >= AGENT_HELLO_MS)
		end(s, WIRE_IDLE, "no hello in time");
	else if (s->state == SESSION_OPEN && quiet_ms >= s->host.agent->cfg.idle_ms)
		end(s, WIRE_IDLE, "the connection was idle");
}

void session_shut_down(struct session *s)
{
	end(s, WIRE_SHUTDOWN, "the agent shuts down");
}

void session_lost(struct session *s)
{
	s->host.lost = true;
	s->state = SESSION_ENDED;
	expire_leases(s, INT64_MAX);
}

bool session_is_busy(const struct session *s)
{
	return s->under_way > 0;
}

int session_new(const struct session_config *cfg, struct session **ret)
{
	struct session *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->host.agent = cfg->agent;
	s->host.disk = cfg->disk;
	s->host.transport = cfg->transport;
	s->host.connection = cfg->connection;
	s->host.over = request_over;
	if (cfg->transport->capabilities & WIRE_CAP_INLINE)
		s->host.inline_bytes_max = WIRE_MESSAGE_BYTES_MAX - OUTPUT_MESSAGE_BYTES_MAX;
	s->refused = cfg->refused;
	s->since_ms = now_ms();
	s->control.done = control_done;
	s->farewell.done = farewell_done;
	*ret = s;
	return 0;
}

void session_free(struct session *s)
{
	if (!s)
		return;
	free_spare(s);
	leases_free(&s->host.leases);
	free(s);
}
