/* The verbs transport of the agent.
 *
 * Threads: one, with all connections, their memory and a disk; nothing of it is shared but `stopping`.
 * (verbs_watch.h has another, which sees to it that a device that was removed is let go of.)
 *
 * What a client may read is exactly what was leased to it: each connection has a protection domain of
 * its own, so that its keys are worth nothing to others, and each lease a memory region of its own,
 * over the leased bytes alone and for remote reading only, which ends with the lease. Registering pins
 * pages and costs a system call, but memory that waits for the next answer is neither pinned nor
 * reachable. */
#include "rdma/agent/verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utlist.h>

#include "rdma/agent/agent.h"
#include "rdma/agent/disk.h"
#include "rdma/agent/session.h"
#include "rdma/agent/transport.h"
#include "rdma/agent/verbs_pool.h"
#include "rdma/device.h"
#include "rdma/spin.h"
#include "rdma/verbs_link.h"
#include "rdma/verbs_watch.h"

#define BACKLOG 512
#define EVENTS_MAX 64
#define READS_AT_ONCE_MAX 16
/* After so many of one connection's messages it is another connection's turn. */
#define TURN_MAX 64
/* Outputs that wait in one connection: with more of them, no further message is taken. */
#define OUTPUTS_MAX 4
/* From the last message until the peer has to have disconnected; and until all work is over then. */
#define LINGER_MS 1000
#define DRAIN_MS 500
/* How long a disconnected pair is looked at, for the rest of its work. */
#define DRAIN_STEP_MS 10
#define NS_PER_US INT64_C(1000)
/* A client takes its time between an answer and its next read: longer than an answer takes. */
#define NEXT_READ_US ((int64_t)2 * SPIN_US)
/* Looks at the completion queues of connections that are polled, between two at the descriptors. */
#define LOOKS_MAX 8

enum connection_state {
	CONNECTION_ACCEPTED, /* not established yet */
	CONNECTION_OPEN,
	CONNECTION_LINGERING, /* all is sent; the peer is to disconnect */
	CONNECTION_DRAINING, /* disconnected; work that was posted comes back */
	CONNECTION_LOST, /* the session knows; freed once no disk read is under way for it */
};

struct connection {
	struct listener *listener;
	struct connection *prev, *next; /* utlist */
	struct connection *next_changed;
	bool is_changed;
	enum connection_state state;
	struct rdma_cm_id *id;
	struct device_use use;
	struct ibv_pd *pd;
	struct link link;
	int64_t since_ms; /* in that state, or the last time that an output went out */
	struct session *session;
	struct staging_share staging;
	struct output *out_first, *out_last; /* for which there is no room yet */
	size_t n_out;
	/* Messages that the session does not want yet; a ring. What makes it want them may need what
	 * comes behind them, so completions are always taken. */
	struct link_event held[LINK_RECEIVES];
	unsigned held_at, n_held;
	int64_t quiet_since_ns; /* the last message was dealt with, or an answer sent */
	struct spin spin;
};

struct listener {
	struct agent *agent;
	pthread_t thread;
	struct rdma_event_channel *channel;
	struct rdma_cm_id *id; /* NULL: not listening, until the device is there again */
	struct device_use use; /* of that address's device; of none where it listens on all */
	struct listener_config cfg; /* host is our own */
	int epoll_fd;
	int wake_fd;
	struct disk *disk;
	struct verbs_pool pool;
	struct connection *connections; /* utlist */
	struct connection *changed; /* to be looked at before the next wait */
	unsigned n_spinning; /* connections that were looked at in vain, and will be again */
	int64_t tick_at_ms;
	bool shutting_down;
	struct deadline stop_deadline; /* set before stopping */
	atomic_bool stopping;
};

/* --- connections --- */

static void mark_changed(struct connection *c)
{
	if (c->is_changed)
		return;
	c->is_changed = true;
	c->next_changed = c->listener->changed;
	c->listener->changed = c;
}

static void set_state(struct connection *c, enum connection_state state)
{
	c->state = state;
	c->since_ms = now_ms();
	mark_changed(c);
}

static void abandon_outputs(struct connection *c)
{
	while (c->out_first) {
		struct output *o = c->out_first;

		c->out_first = o->next;
		c->n_out--;
		o->done(o);
	}
}

/* Ends it: the pair goes into the error state, and all of its work comes back. */
static void drop(struct connection *c)
{
	if (c->state >= CONNECTION_DRAINING)
		return;
	rdma_disconnect(c->id);
	c->link.failed = true;
	set_state(c, CONNECTION_DRAINING);
}

static void free_connection(struct connection *c)
{
	struct agent *agent = c->listener->agent;

	session_free(c->session);
	/* The handle of its last event has been acknowledged: it is only used from one thread. */
	rdma_destroy_id(c->id);
	watch_leave(&c->use);
	free(c);
	atomic_fetch_sub(&agent->active, 1);
}

/* With the pair gone nobody reads leased memory any more, so that it can be given back. */
static void destroy_link(struct connection *c)
{
	link_close(&c->link);
	abandon_outputs(c);
	session_lost(c->session);
	if (c->pd)
		ibv_dealloc_pd(c->pd);
	c->pd = NULL;
	c->state = CONNECTION_LOST;
}

/* Completions of what was posted, whatever they say. */
static void take_rest(struct connection *c)
{
	struct link_event e;
	int err;

	do {
		err = link_poll(&c->link, &e);
	} while (!err || err == -EPROTO);
}

static void bury(struct connection *c)
{
	if (c->state == CONNECTION_DRAINING) {
		take_rest(c);
		if (!link_is_drained(&c->link) && now_ms() - c->since_ms < DRAIN_MS)
			return;
		destroy_link(c);
	}
	if (session_is_busy(c->session) || c->is_changed)
		return;
	DL_DELETE(c->listener->connections, c);
	free_connection(c);
}

/* --- messages out --- */

static int send_now(struct connection *c, struct output *o)
{
	struct link_part parts[1 + WIRE_EXTENTS_MAX];
	size_t n = 0;

	parts[n++] = (struct link_part){ o->message, o->message_bytes };
	for (size_t i = 0; i < o->n_pieces; i++)
		parts[n++] = (struct link_part){ o->pieces[i].mem, o->pieces[i].bytes };
	if (o->last)
		link_signal_next(&c->link);
	return link_send(&c->link, parts, n);
}

static void flush_outputs(struct connection *c)
{
	while (c->out_first && c->state == CONNECTION_OPEN) {
		struct output *o = c->out_first;
		int err = send_now(c, o);

		if (err == -EAGAIN)
			return;
		c->out_first = o->next;
		c->n_out--;
		c->since_ms = now_ms();
		c->quiet_since_ns = now_ns();
		bool last = o->last;
		o->done(o);
		if (err)
			drop(c);
		else if (last)
			set_state(c, CONNECTION_LINGERING);
	}
}

static void verbs_send(struct connection *c, struct output *o)
{
	if (c->state != CONNECTION_OPEN) {
		o->done(o);
		return;
	}
	o->next = NULL;
	if (c->out_first)
		c->out_last->next = o;
	else
		c->out_first = o;
	c->out_last = o;
	if (c->n_out++ == 0)
		c->since_ms = now_ms();
	mark_changed(c);
	flush_outputs(c);
}

/* --- messages in --- */

static bool wants_input(const struct connection *c)
{
	return c->state == CONNECTION_OPEN && c->n_out < OUTPUTS_MAX && session_wants(c->session);
}

static void deliver(struct connection *c, const struct link_event *e)
{
	session_message(c->session, &e->header, e->payload);
	link_release(&c->link, e->receive);
}

/* With a message that the session cannot take yet, or one that is too late. */
static void keep(struct connection *c, const struct link_event *e)
{
	if (c->state == CONNECTION_OPEN)
		c->held[(c->held_at + c->n_held++) % LINK_RECEIVES] = *e;
	else
		link_release(&c->link, e->receive);
}

/* Returns whether anything happened. */
static bool take_one(struct connection *c)
{
	struct link_event e;

	if (c->state < CONNECTION_OPEN || c->state > CONNECTION_LINGERING)
		return false;
	int err = link_poll(&c->link, &e);
	if (err == -EPROTO)
		session_malformed(c->session);
	else if (err)
		drop(c);
	if (err || e.type == LINK_NOTHING)
		return false;
	if (e.type == LINK_MORE)
		return true;
	if (c->n_held == 0 && wants_input(c))
		deliver(c, &e);
	else
		keep(c, &e);
	return true;
}

static bool take_held(struct connection *c)
{
	if (c->n_held == 0 || !wants_input(c))
		return false;
	struct link_event e = c->held[c->held_at];
	c->held_at = (c->held_at + 1) % LINK_RECEIVES;
	c->n_held--;
	deliver(c, &e);
	return true;
}

static bool take_messages(struct connection *c)
{
	bool any = false;

	for (int i = 0; i < TURN_MAX; i++) {
		flush_outputs(c);
		if (!take_held(c) && !take_one(c))
			break;
		any = true;
	}
	flush_outputs(c);
	return any;
}

/* There was a message after so long. Where its answer has to wait for the disk, it is sent later. */
static void note_message(struct connection *c, int64_t waited_ns)
{
	spin_note(&c->spin, waited_ns, NEXT_READ_US * NS_PER_US, true);
	c->quiet_since_ns = now_ns();
}

/* Is the next message worth being polled for? */
static bool spins(const struct connection *c, int64_t now)
{
	return c->state == CONNECTION_OPEN &&
	       now - c->quiet_since_ns < spin_window_ns(&c->spin, NEXT_READ_US * NS_PER_US);
}

static void connection_advance(struct connection *c)
{
	int64_t looked_ns = now_ns(), waited_ns = looked_ns - c->quiet_since_ns;
	bool any = take_messages(c), again = any;

	if (!any && spins(c, looked_ns)) {
		c->listener->n_spinning++;
		again = true;
	} else if (!any && c->state <= CONNECTION_LINGERING) {
		/* What came since the last look raises no event. */
		if (link_arm(&c->link))
			drop(c);
		any = again = take_messages(c);
	}
	if (any)
		note_message(c, waited_ns);
	if (again)
		mark_changed(c);
	if (c->state >= CONNECTION_DRAINING)
		bury(c);
}

/* --- connecting --- */

static int watch(struct listener *l, int fd, void *data)
{
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = data };

	return epoll_ctl(l->epoll_fd, EPOLL_CTL_ADD, fd, &e) ? -errno : 0;
}

static int open_session(struct connection *c, bool refused)
{
	struct listener *l = c->listener;
	struct session_config cfg = { .agent = l->agent,
				      .disk = l->disk,
				      .transport = &agent_verbs,
				      .connection = c,
				      .refused = refused };

	c->staging.all = &l->agent->staging;
	c->staging.max_bytes = l->agent->cfg.lease_connection_bytes_max;
	return session_new(&cfg, &c->session);
}

uint64_t agent_verbs_locked_bytes(const struct agent *a)
{
	uint64_t links = (uint64_t)a->cfg.connections_max + AGENT_REFUSALS_MAX;

	return a->cfg.staging_bytes_max +
	       links * link_locked_bytes(LINK_REQUEST_BYTES_MAX, WIRE_MESSAGE_BYTES_MAX);
}

static int open_link(struct connection *c)
{
	c->pd = ibv_alloc_pd(c->id->verbs);
	if (!c->pd)
		return -errno;
	struct link_config cfg = { .id = c->id,
				   .pd = c->pd,
				   .receive_bytes_max = LINK_REQUEST_BYTES_MAX,
				   .send_bytes_max = WIRE_MESSAGE_BYTES_MAX };
	int err = link_open(&c->link, &cfg);
	if (!err)
		err = watch(c->listener, c->link.channel->fd, c);
	return err;
}

static int accept_it(struct connection *c, const struct rdma_conn_param *wanted)
{
	const struct link_hello mine = { .window = LINK_RECEIVES,
					 .message_bytes = LINK_REQUEST_BYTES_MAX };
	struct link_hello peer;
	struct ibv_device_attr device;
	uint8_t data[LINK_HELLO_BYTES];
	int err = link_hello_decode(wanted->private_data, wanted->private_data_len, &peer);

	if (err)
		return err;
	if (ibv_query_device(c->id->verbs, &device))
		return -EIO;
	uint64_t reads = min_u64(READS_AT_ONCE_MAX, (uint64_t)device.max_qp_rd_atom);
	struct rdma_conn_param param = {
		.private_data = data,
		.private_data_len = sizeof(data),
		.responder_resources = (uint8_t)min_u64(reads, wanted->responder_resources),
		.initiator_depth = 0, /* we read nothing of the client */
	};
	link_hello_encode(&mine, data);
	link_set_peer(&c->link, &peer);
	return rdma_accept(c->id, &param) ? -errno : 0;
}

static int make_connection(struct listener *l, struct rdma_cm_id *id, bool refused,
			   const struct rdma_conn_param *wanted)
{
	uint8_t ack_timeout = LINK_ACK_TIMEOUT;
	struct connection *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->listener = l;
	c->id = id;
	c->link.failed = true;
	c->since_ms = now_ms();
	rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &ack_timeout,
			sizeof(ack_timeout));
	int err = watch_enter(&c->use, id, NULL);
	if (!err)
		err = open_session(c, refused);
	if (!err)
		err = open_link(c);
	if (!err)
		err = accept_it(c, wanted);
	if (err) {
		link_close(&c->link);
		if (c->pd)
			ibv_dealloc_pd(c->pd);
		session_free(c->session);
		watch_leave(&c->use);
		free(c);
		return err;
	}
	id->context = c;
	DL_APPEND(l->connections, c);
	return 0;
}

/* True: the id was taken over. */
static bool take_connection(struct listener *l, struct rdma_cm_id *id,
			    const struct rdma_conn_param *wanted)
{
	unsigned max = l->agent->cfg.connections_max;
	unsigned before = atomic_fetch_add(&l->agent->active, 1);

	agent_count(&l->agent->counters.connections, 1);
	id->context = NULL;
	if (!l->shutting_down && before < max + AGENT_REFUSALS_MAX &&
	    make_connection(l, id, before >= max, wanted) == 0)
		return true;
	if (before >= max + AGENT_REFUSALS_MAX)
		agent_count(&l->agent->counters.refused, 1);
	atomic_fetch_sub(&l->agent->active, 1);
	rdma_reject(id, NULL, 0);
	return false;
}

static void on_established(struct connection *c)
{
	if (c->state != CONNECTION_ACCEPTED)
		return;
	set_state(c, CONNECTION_OPEN);
	if (c->listener->shutting_down)
		session_shut_down(c->session);
}

static void stop_listening(struct listener *l)
{
	if (l->id)
		rdma_destroy_id(l->id);
	l->id = NULL;
	watch_leave(&l->use);
}

/* The listener of one address is bound to its device. */
static int listen_on(struct listener *l, struct sockaddr *a)
{
	int err = 0;

	if (rdma_create_id(l->channel, &l->id, NULL, RDMA_PS_TCP)) {
		l->id = NULL;
		return -errno;
	}
	if (rdma_bind_addr(l->id, a) || rdma_listen(l->id, BACKLOG))
		err = -errno;
	if (!err && l->id->verbs)
		err = watch_enter(&l->use, l->id, NULL);
	if (err)
		stop_listening(l);
	return err;
}

static int bind_listener(struct listener *l)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE };
	struct addrinfo *list;
	char port[8];
	int err = -EADDRNOTAVAIL;

	snprintf(port, sizeof(port), "%u", (unsigned)l->cfg.port);
	if (getaddrinfo(l->cfg.host, port, &hints, &list))
		return -EADDRNOTAVAIL;
	/* Without a host: all addresses of both families, or of IPv4 where there is no other. */
	for (int pass = 0; pass < 2 && err; pass++) {
		for (const struct addrinfo *a = list; a && err; a = a->ai_next) {
			if ((a->ai_family == AF_INET6) != (pass == 0))
				continue;
			err = listen_on(l, a->ai_addr);
		}
	}
	freeaddrinfo(list);
	return err;
}

static void on_cm_event(struct listener *l, struct rdma_cm_event *e)
{
	struct rdma_cm_id *id = e->id;
	struct rdma_cm_id *to_destroy = NULL;
	struct connection *c = id == l->id ? NULL : id->context;

	switch (e->event) {
	case RDMA_CM_EVENT_CONNECT_REQUEST:
		if (!take_connection(l, id, &e->param.conn))
			to_destroy = id;
		break;
	case RDMA_CM_EVENT_ESTABLISHED:
		if (c)
			on_established(c);
		break;
	case RDMA_CM_EVENT_CONNECT_ERROR:
	case RDMA_CM_EVENT_UNREACHABLE:
	case RDMA_CM_EVENT_REJECTED:
	case RDMA_CM_EVENT_DISCONNECTED:
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		if (c)
			drop(c);
		break;
	default:
		break;
	}
	bool address_gone = id == l->id && e->event == RDMA_CM_EVENT_DEVICE_REMOVAL;
	/* An id waits, when it is destroyed, for its events to be acknowledged. */
	rdma_ack_cm_event(e);
	if (to_destroy)
		rdma_destroy_id(to_destroy);
	if (address_gone)
		stop_listening(l);
}

static void take_cm_events(struct listener *l)
{
	struct rdma_cm_event *e;

	while (rdma_get_cm_event(l->channel, &e) == 0)
		on_cm_event(l, e);
}

/* --- the thread --- */

static void tick_connection(struct connection *c, int64_t now)
{
	int64_t age_ms = now - c->since_ms;

	switch (c->state) {
	case CONNECTION_ACCEPTED:
		if (age_ms >= AGENT_HELLO_MS)
			drop(c);
		break;
	case CONNECTION_OPEN:
		if (c->out_first && age_ms >= AGENT_STALL_MS) {
			agent_count(&c->listener->agent->counters.stalled, 1);
			drop(c);
			break;
		}
		session_tick(c->session, now);
		break;
	case CONNECTION_LINGERING:
		if (age_ms >= LINGER_MS)
			drop(c);
		break;
	case CONNECTION_DRAINING:
	case CONNECTION_LOST:
		break;
	}
	mark_changed(c);
}

static void tick(struct listener *l, int64_t now)
{
	struct connection *c;

	l->tick_at_ms = now + SESSION_TICK_MS;
	verbs_pool_trim(&l->pool, now);
	if (!l->id && !l->shutting_down)
		(void)bind_listener(l);
	DL_FOREACH (l->connections, c)
		tick_connection(c, now);
}

static void shut_down(struct listener *l)
{
	struct connection *c;

	if (!l->shutting_down) {
		l->shutting_down = true;
		stop_listening(l);
		DL_FOREACH (l->connections, c)
			if (c->state == CONNECTION_OPEN)
				session_shut_down(c->session);
	}
	if (deadline_passed(l->stop_deadline)) {
		DL_FOREACH (l->connections, c)
			drop(c);
	}
}

static void handle_event(struct listener *l, void *what)
{
	uint64_t count;

	if (what == &l->channel) {
		take_cm_events(l);
	} else if (what == &l->wake_fd) {
		ssize_t n = read(l->wake_fd, &count, sizeof(count));

		(void)n;
	} else if (what == l->disk) {
		disk_reap(l->disk);
	} else {
		struct connection *c = what;

		if (c->state <= CONNECTION_DRAINING)
			link_take_events(&c->link);
		mark_changed(c);
	}
}

/* A connection may change again while it is looked at. Returns how many were looked at, where there is
 * nothing to do but to look at them again; else 0. */
static unsigned advance_changed(struct listener *l)
{
	struct connection *list = l->changed;

	l->changed = NULL;
	unsigned n = 0;

	l->n_spinning = 0;
	for (; list; n++) {
		struct connection *c = list;

		list = c->next_changed;
		c->is_changed = false;
		connection_advance(c);
	}
	disk_submit(l->disk);
	return l->n_spinning == n ? n : 0;
}

static void advance(struct listener *l)
{
	unsigned n;

	for (unsigned looks = 0; looks < LOOKS_MAX && (n = advance_changed(l)) > 0; looks += n)
		sched_yield(); /* others may have the processor */
}

static bool is_draining(const struct listener *l)
{
	const struct connection *c;

	DL_FOREACH (l->connections, c)
		if (c->state == CONNECTION_DRAINING)
			return true;
	return false;
}

static int wait_ms(const struct listener *l)
{
	int64_t left = l->tick_at_ms - now_ms();

	if (l->changed || left < 0)
		return 0;
	return (int)(is_draining(l) ? min_u64((uint64_t)left, DRAIN_STEP_MS) : (uint64_t)left);
}

static void *run_thread(void *arg)
{
	struct listener *l = arg;
	struct epoll_event events[EVENTS_MAX];

	while (!l->shutting_down || l->connections) {
		int n = epoll_wait(l->epoll_fd, events, EVENTS_MAX, wait_ms(l));
		struct connection *c;

		/* Connections are freed only below, when none of these is of use any more. */
		for (int i = 0; i < n; i++)
			handle_event(l, events[i].data.ptr);
		DL_FOREACH (l->connections, c)
			if (c->state == CONNECTION_DRAINING)
				mark_changed(c);
		int64_t now = now_ms();
		if (now >= l->tick_at_ms)
			tick(l, now);
		if (atomic_load(&l->stopping))
			shut_down(l);
		advance(l);
	}
	return NULL;
}

/* --- the listener --- */

static void close_listener(struct listener *l)
{
	verbs_pool_close(&l->pool);
	disk_free(l->disk);
	stop_listening(l);
	watch_close();
	if (l->channel)
		rdma_destroy_event_channel(l->channel);
	if (l->wake_fd >= 0)
		close(l->wake_fd);
	if (l->epoll_fd >= 0)
		close(l->epoll_fd);
	free((char *)l->cfg.host);
	free(l);
}

static void verbs_stop(struct listener *l, struct deadline d)
{
	uint64_t one = 1;

	l->stop_deadline = d;
	atomic_store(&l->stopping, true);
	ssize_t n = write(l->wake_fd, &one, sizeof(one));
	(void)n;
	pthread_join(l->thread, NULL);
	close_listener(l);
}

static int open_channel(struct listener *l)
{
	l->channel = rdma_create_event_channel();
	/* The kernel's part is missing. */
	if (!l->channel)
		return errno == EMFILE || errno == ENOMEM ? -errno : -ENODEV;
	int flags = fcntl(l->channel->fd, F_GETFL);
	if (flags < 0 || fcntl(l->channel->fd, F_SETFL, flags | O_NONBLOCK))
		return -errno;
	return watch(l, l->channel->fd, &l->channel);
}

static int keep_config(struct listener *l, const struct listener_config *cfg)
{
	l->cfg = *cfg;
	l->cfg.host = cfg->host ? strdup(cfg->host) : NULL;
	return cfg->host && !l->cfg.host ? -ENOMEM : 0;
}

static int verbs_listen(struct agent *a, const struct listener_config *cfg, struct listener **ret)
{
	struct listener *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->agent = a;
	l->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int err = l->epoll_fd < 0 || l->wake_fd < 0 ? -errno : disk_new(&l->disk);
	if (!err)
		err = watch(l, l->wake_fd, &l->wake_fd);
	if (!err && disk_fd(l->disk) >= 0)
		err = watch(l, disk_fd(l->disk), l->disk);
	if (!err)
		err = open_channel(l);
	if (!err)
		err = keep_config(l, cfg);
	if (!err)
		err = bind_listener(l);
	if (!err)
		err = -pthread_create(&l->thread, NULL, run_thread, l);
	if (err) {
		close_listener(l);
		return err;
	}
	*ret = l;
	return 0;
}

/* --- memory for answers --- */

/* What waits for its next use, and what is used, are no more than the budget together. */
static void bound_pool(struct connection *c)
{
	verbs_pool_bound(&c->listener->pool, staging_left(c->staging.all));
}

static int verbs_stage(struct connection *c, size_t bytes, struct staged *ret)
{
	struct verbs_block *b;
	size_t size = verbs_pool_size(bytes);

	if (size > c->staging.max_bytes)
		return -EMSGSIZE;
	if (!staging_take(&c->staging, size))
		return -ENOBUFS;
	b = verbs_pool_take(&c->listener->pool, size);
	bound_pool(c);
	if (!b) {
		staging_give(&c->staging, size);
		return -ENOBUFS;
	}
	*ret = (struct staged){ .ptr = b->memory, .bytes = size, .handle = b };
	return 0;
}

static int verbs_expose(struct connection *c, struct staged *s, const uint8_t *p, size_t bytes)
{
	struct verbs_block *b = s->handle;

	/* A region is at least a byte; nobody has to read nothing. */
	b->mr = ibv_reg_mr(c->pd, (void *)p, bytes ? bytes : 1, IBV_ACCESS_REMOTE_READ);
	if (!b->mr)
		return -ENOBUFS;
	s->remote_addr = (uintptr_t)p;
	s->rkey = b->mr->rkey;
	return 0;
}

static void verbs_unstage(struct connection *c, struct staged *s)
{
	struct verbs_block *b = s->handle;
	size_t size = s->bytes;

	if (b->mr)
		ibv_dereg_mr(b->mr);
	b->mr = NULL;
	verbs_pool_give(&c->listener->pool, b, size);
	staging_give(&c->staging, size);
	bound_pool(c);
}

const struct transport agent_verbs = {
	.name = "rdma",
	.capabilities = WIRE_CAP_INLINE | WIRE_CAP_LEASE,
	.listen = verbs_listen,
	.stop = verbs_stop,
	.send = verbs_send,
	.stage = verbs_stage,
	.expose = verbs_expose,
	.unstage = verbs_unstage,
};
