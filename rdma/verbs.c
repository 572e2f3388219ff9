/* The client's transport over verbs.
 *
 * Thread model: none of its own; see rdma/transport.h. One mutex for each connection protects its queue
 * pair; nobody sleeps with it. Whoever waits for room to send takes completions off the queue too, and
 * leaves what is not for him to the receiving thread.
 *
 * A destination that is given up must not be written to any more: abort() resets the queue pair, after
 * which the device has let go of all work, and only then do buffers go back to where they came from. */
#include "rdma/verbs.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "rdma/client.h"
#include "rdma/pulls.h"
#include "rdma/spin.h"
#include "rdma/verbs_link.h"
#include "rdma/verbs_memory.h"
#include "rdma/verbs_watch.h"

#define READS_AT_ONCE_MAX                                                                          \
	16 /* of what the peer's device and ours may have under way for one pair */
#define WAIT_STEP_MS 1
#define DRAIN_MS 100
#define RNR_RETRIES 0 /* the window makes it impossible */
#define NS_PER_US 1000
#define BOUND_DEVICE_MAX 64

_Static_assert(PULLS_MAX == LINK_READS_MAX && PULL_SGES_MAX == LINK_SGES_MAX, "the link's limits");

/* What an agent leases to one connection at once, and all messages that it can have sent. */
#define FOUND_MAX (LINK_RECEIVES + 128)

/* A message, or the end of a lease's last read. */
struct found {
	struct link_event event;
	uint64_t cookie;
};

struct client_connection {
	struct rdma_event_channel
		*channel; /* while connecting; then the watch has the id's events */
	struct rdma_cm_id *id; /* immutable */
	struct device_use use; /* the watch's */
	struct memory_device *memory; /* immutable */
	int wake_fd; /* immutable; wakes the receiver */
	bool established; /* immutable */
	unsigned spinners_max; /* immutable */

	pthread_mutex_t lock; /* protects all below; innermost */
	struct link link;
	bool aborted;
	bool lost; /* the peer has disconnected, or the device is not to be used any more */
	void (*on_lost)(void *arg); /* NULL: nobody wants to know */
	void *on_lost_arg;
	bool said_goodbye;
	int held; /* receive buffer of the message that was given out; -1: none */
	struct found found[FOUND_MAX]; /* by senders; a ring */
	unsigned found_at, n_found;
	struct pulls pulls;

	struct spin spin;
};

static struct {
	char device[BOUND_DEVICE_MAX];
	int tos;
	unsigned spin_us;
} settings = { .tos = -1, .spin_us = SPIN_US }; /* immutable while there are connections */

int verbs_set(const struct verbs_settings *s)
{
	if (s->device && strlen(s->device) >= sizeof(settings.device))
		return -ENAMETOOLONG;
	snprintf(settings.device, sizeof(settings.device), "%s", s->device ? s->device : "");
	settings.tos = s->tos;
	settings.spin_us = s->spin_us;
	return 0;
}

uint64_t verbs_locked_bytes(const struct verbs_memory *m)
{
	return m->devices * m->region_bytes +
	       (uint64_t)m->agents * m->connections *
		       link_locked_bytes(WIRE_MESSAGE_BYTES_MAX, LINK_REQUEST_BYTES_MAX);
}

static atomic_uint spinners; /* threads that poll */
static atomic_uint_fast64_t abandoned_reads;

static int64_t spin_max_ns(void)
{
	return (int64_t)settings.spin_us * NS_PER_US;
}

/* --- connecting --- */

static int unblock(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ? -errno : 0;
}

static int wait_readable(int fd, struct deadline d)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };

	for (;;) {
		int n = poll(&p, 1, (int)min_u64((uint64_t)deadline_left_ms(d), INT32_MAX));

		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
		if (deadline_passed(d))
			return -ETIMEDOUT;
	}
}

static int failure_of(const struct rdma_cm_event *e)
{
	switch (e->event) {
	case RDMA_CM_EVENT_REJECTED:
		return -ECONNREFUSED;
	case RDMA_CM_EVENT_ADDR_ERROR:
	case RDMA_CM_EVENT_ROUTE_ERROR:
	case RDMA_CM_EVENT_UNREACHABLE:
		return e->status == -ETIMEDOUT ? -ETIMEDOUT : -EHOSTUNREACH;
	case RDMA_CM_EVENT_DEVICE_REMOVAL:
		return -ENODEV;
	default:
		return -ECONNRESET;
	}
}

/* Waits for one event of connecting. hello: what the peer says with it, or NULL. */
static int await_event(struct client_connection *c, enum rdma_cm_event_type wanted,
		       struct link_hello *hello, struct deadline d)
{
	struct rdma_cm_event *e;
	int err;

	while (rdma_get_cm_event(c->channel, &e)) {
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		err = wait_readable(c->channel->fd, d);
		if (err)
			return err;
	}
	err = e->event == wanted ? 0 : failure_of(e);
	if (!err && hello)
		err = link_hello_decode(e->param.conn.private_data, e->param.conn.private_data_len,
					hello);
	rdma_ack_cm_event(e);
	return err;
}

static void wake_receiver(struct client_connection *c)
{
	uint64_t one = 1;
	ssize_t n = write(c->wake_fd, &one, sizeof(one));

	(void)n; /* full: it will wake */
}

/* By the watching thread. */
static void connection_lost(struct device_use *u)
{
	struct client_connection *c =
		(struct client_connection *)((char *)u - offsetof(struct client_connection, use));

	pthread_mutex_lock(&c->lock);
	c->lost = true;
	wake_receiver(c);
	void (*on_lost)(void *arg) = c->on_lost;
	pthread_mutex_unlock(&c->lock);
	if (on_lost)
		on_lost(c->on_lost_arg);
}

static void verbs_watch(struct client_connection *c, void (*on_lost)(void *arg), void *arg)
{
	pthread_mutex_lock(&c->lock);
	bool lost = c->lost;
	c->on_lost_arg = arg;
	c->on_lost = on_lost;
	pthread_mutex_unlock(&c->lock);
	if (lost)
		on_lost(arg);
}

static int resolve(struct client_connection *c, const struct client_address *a, struct deadline d)
{
	struct sockaddr_storage to = a->sockaddr;
	uint8_t ack_timeout = LINK_ACK_TIMEOUT;
	uint8_t tos = (uint8_t)settings.tos;

	/* Older kernels do not know the first, which then stays at half a second. */
	rdma_set_option(c->id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &ack_timeout,
			sizeof(ack_timeout));
	if (settings.tos >= 0 &&
	    rdma_set_option(c->id, RDMA_OPTION_ID, RDMA_OPTION_ID_TOS, &tos, sizeof(tos)))
		return -errno;
	if (rdma_resolve_addr(c->id, NULL, (struct sockaddr *)&to, (int)deadline_left_ms(d)))
		return -errno;
	int err = await_event(c, RDMA_CM_EVENT_ADDR_RESOLVED, NULL, d);
	if (!err)
		err = watch_enter(&c->use, c->id, connection_lost);
	if (err)
		return err;
	if (settings.device[0] &&
	    strcmp(ibv_get_device_name(c->id->verbs->device), settings.device) != 0)
		return -ENODEV;
	if (rdma_resolve_route(c->id, (int)deadline_left_ms(d)))
		return -errno;
	return await_event(c, RDMA_CM_EVENT_ROUTE_RESOLVED, NULL, d);
}

static int reads_at_once(const struct client_connection *c)
{
	struct ibv_device_attr attr;

	if (ibv_query_device(c->id->verbs, &attr))
		return 1;
	return (int)min_u64(READS_AT_ONCE_MAX, (uint64_t)attr.max_qp_init_rd_atom);
}

static int establish(struct client_connection *c, struct deadline d)
{
	const struct link_hello mine = { .window = LINK_RECEIVES,
					 .message_bytes = WIRE_MESSAGE_BYTES_MAX };
	struct link_hello peer;
	uint8_t data[LINK_HELLO_BYTES];
	struct rdma_conn_param param = {
		.private_data = data,
		.private_data_len = sizeof(data),
		.initiator_depth = (uint8_t)reads_at_once(c),
		.responder_resources = 0, /* nobody reads our memory */
		.retry_count = LINK_RETRIES,
		.rnr_retry_count = RNR_RETRIES,
	};

	link_hello_encode(&mine, data);
	if (rdma_connect(c->id, &param))
		return -errno;
	int err = await_event(c, RDMA_CM_EVENT_ESTABLISHED, &peer, d);
	if (err)
		return err;
	c->established = true;
	link_set_peer(&c->link, &peer);
	return 0;
}

static int open_queue_pair(struct client_connection *c)
{
	int err = memory_device_get(c->id->verbs, &c->memory);

	if (err)
		return err;
	struct link_config cfg = { .id = c->id,
				   .pd = memory_device_pd(c->memory),
				   .receive_bytes_max = WIRE_MESSAGE_BYTES_MAX,
				   .send_bytes_max = LINK_REQUEST_BYTES_MAX,
				   .reads = true,
				   .context = &c->use };
	return link_open(&c->link, &cfg);
}

static int verbs_connect(const struct client_address *a, int64_t stall_ms, struct deadline d,
			 struct client_connection **ret)
{
	struct client_connection *c = calloc(1, sizeof(*c));
	int err = 0;

	(void)stall_ms; /* an answer's data comes with it, or is pulled */
	if (!c)
		return -ENOMEM;
	c->held = -1;
	c->link.failed = true;
	c->spinners_max = (unsigned)max_u64(1, (uint64_t)sysconf(_SC_NPROCESSORS_ONLN) / 2);
	pthread_mutex_init(&c->lock, NULL);
	c->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	c->channel = rdma_create_event_channel();
	if (c->wake_fd < 0)
		err = -EMFILE;
	else if (!c->channel)
		err = -ENODEV; /* the kernel's part is missing */
	else
		err = unblock(c->channel->fd);
	if (!err && rdma_create_id(c->channel, &c->id, c, RDMA_PS_TCP))
		err = -errno;
	if (!err)
		err = resolve(c, a, d);
	if (!err)
		err = open_queue_pair(c);
	if (!err)
		err = establish(c, d);
	if (!err)
		err = watch_events(&c->use, c->id);
	if (err) {
		client_verbs.close(c);
		return err;
	}
	rdma_destroy_event_channel(c->channel);
	c->channel = NULL;
	*ret = c;
	return 0;
}

/* --- the queue pair; with the lock --- */

static int connection_error(const struct client_connection *c)
{
	if (c->aborted || c->lost)
		return -ECONNRESET;
	if (!c->link.failed)
		return 0;
	return c->link.status == IBV_WC_RETRY_EXC_ERR ? -ETIMEDOUT : -ECONNRESET;
}

static void forget_own_memory(struct pull *p)
{
	while (p->n_own > 0)
		ibv_dereg_mr(p->own[--p->n_own]);
}

/* The next thing that is of interest to the receiver. */
static int look(struct client_connection *c, struct found *ret)
{
	for (;;) {
		int err = link_poll(&c->link, &ret->event);

		if (err || ret->event.type != LINK_READ_DONE)
			return err;
		struct pull *p = pulls_find(&c->pulls, ret->event.read);
		if (!p) {
			ret->event.type = LINK_NOTHING; /* of no read that is under way */
			return -EPROTO;
		}
		forget_own_memory(p);
		pulls_give(p);
		ret->cookie = p->cookie;
		if (p->last)
			return 0;
	}
}

static void keep_for_receiver(struct client_connection *c)
{
	bool any = false;

	while (c->n_found < FOUND_MAX) {
		struct found *f = &c->found[(c->found_at + c->n_found) % FOUND_MAX];

		if (look(c, f))
			c->link.failed = true;
		if (f->event.type == LINK_NOTHING || f->event.type == LINK_MORE)
			break;
		c->n_found++;
		any = true;
	}
	if (any)
		wake_receiver(c);
}

static int next_found(struct client_connection *c, struct found *ret)
{
	if (c->n_found == 0)
		return look(c, ret);
	*ret = c->found[c->found_at];
	c->found_at = (c->found_at + 1) % FOUND_MAX;
	c->n_found--;
	return 0;
}

/* For other work to end, without the lock. */
static int wait_for_room(struct client_connection *c, struct deadline d)
{
	keep_for_receiver(c);
	int err = connection_error(c);
	if (err)
		return err;
	if (deadline_passed(d))
		return -ETIMEDOUT;
	pthread_mutex_unlock(&c->lock);
	sleep_ms(WAIT_STEP_MS, d);
	pthread_mutex_lock(&c->lock);
	return connection_error(c);
}

/* Closing waits for it. */
static bool is_goodbye(const uint8_t *message, size_t len)
{
	struct wire_header h;

	return wire_decode_header(message, len, &h) == 0 && h.type == WIRE_GOODBYE;
}

static int verbs_send(struct client_connection *c, const uint8_t *message, size_t len,
		      struct deadline d)
{
	const struct link_part part = { message, len };

	LOCK_SCOPE(&c->lock);
	int err = connection_error(c);
	if (!err && is_goodbye(message, len)) {
		link_signal_next(&c->link);
		c->said_goodbye = true;
	}
	while (!err) {
		err = link_send(&c->link, &part, 1);
		if (err != -EAGAIN)
			return err;
		err = wait_for_room(c, d);
	}
	return err;
}

/* --- pulling --- */

/* Posts a read of as many of the bufs as one can take. Returns how many, or -errno. */
static int pull_some(struct client_connection *c, const struct client_lease *lease, size_t at,
		     uint64_t remote_addr)
{
	struct ibv_sge sges[LINK_SGES_MAX];
	struct pull *p = pulls_take(&c->pulls);
	unsigned n = 0;
	int err = 0;

	if (!p)
		return -EAGAIN;
	for (; n < c->link.sges_max && at + n < lease->n_bufs; n++) {
		const struct read_buf *b = &lease->bufs[at + n];
		struct ibv_mr *own;
		uint32_t key;

		err = memory_device_key(c->memory, b, &key, &own);
		if (err)
			break;
		if (own)
			p->own[p->n_own++] = own;
		sges[n] = (struct ibv_sge){ .addr = (uintptr_t)b->ptr,
					    .length = (uint32_t)b->len,
					    .lkey = key };
	}
	p->last = at + n == lease->n_bufs;
	p->cookie = lease->cookie;
	if (!err)
		err = link_read(&c->link, sges, (int)n, remote_addr, lease->rkey, p->id);
	if (!err)
		return (int)n;
	forget_own_memory(p);
	pulls_give(p);
	return err;
}

static int verbs_pull(struct client_connection *c, const struct client_lease *lease,
		      struct deadline d)
{
	uint64_t remote_addr = lease->remote_addr;

	LOCK_SCOPE(&c->lock);
	int err = connection_error(c);
	for (size_t at = 0; !err && at < lease->n_bufs;) {
		int n = pull_some(c, lease, at, remote_addr);

		if (n == -EAGAIN) {
			err = wait_for_room(c, d);
		} else if (n < 0) {
			err = n;
		} else {
			for (size_t end = at + (size_t)n; at < end; at++)
				remote_addr += lease->bufs[at].len;
		}
	}
	return err;
}

/* --- receiving --- */

static void tell(struct client_connection *c, const struct found *f, struct client_message *ret)
{
	ret->pulled = f->event.type == LINK_READ_DONE;
	if (ret->pulled) {
		ret->cookie = f->cookie;
		return;
	}
	c->held = (int)f->event.receive;
	ret->header = f->event.header;
	ret->payload = f->event.payload;
}

/* Sleeps without the lock until something may have happened. */
static void sleep_for_events(struct client_connection *c, struct deadline d)
{
	struct pollfd p[] = { { .fd = c->link.channel->fd, .events = POLLIN },
			      { .fd = c->wake_fd, .events = POLLIN } };
	uint64_t count;

	pthread_mutex_unlock(&c->lock);
	(void)poll(p, ARRAY_LEN(p), (int)min_u64((uint64_t)deadline_left_ms(d), INT32_MAX));
	if (p[1].revents) {
		ssize_t n = read(c->wake_fd, &count, sizeof(count));

		(void)n;
	}
	pthread_mutex_lock(&c->lock);
	if (p[0].revents)
		link_take_events(&c->link);
}

static void pause_briefly(struct client_connection *c)
{
	pthread_mutex_unlock(&c->lock);
	sched_yield();
	pthread_mutex_lock(&c->lock);
}

/* Who waits polls for as long as that is worth it, but not on more than half of the processors. */
static bool spin_begin(const struct client_connection *c, int64_t *ret_until_ns)
{
	int64_t window_ns = spin_window_ns(&c->spin, spin_max_ns());

	*ret_until_ns = now_ns() + window_ns;
	if (window_ns == 0)
		return false;
	if (atomic_fetch_add(&spinners, 1) < c->spinners_max)
		return true;
	atomic_fetch_sub(&spinners, 1);
	return false;
}

/* -EAGAIN: nothing has come yet. */
static int take_next(struct client_connection *c, struct client_message *ret)
{
	struct found f;
	int err = c->aborted ? -ECONNRESET : next_found(c, &f);

	if (err)
		return err == -ECONNRESET ? connection_error(c) : err;
	/* What is there already would raise no event. */
	if (f.event.type == LINK_MORE)
		wake_receiver(c);
	if (f.event.type == LINK_NOTHING || f.event.type == LINK_MORE)
		return c->lost ? -ECONNRESET : -EAGAIN;
	tell(c, &f, ret);
	return 0;
}

/* *ret_could: there was room for another who polls, if polling was wanted. */
static int poll_for_next(struct client_connection *c, struct client_message *ret, bool *ret_could)
{
	int64_t until_ns;
	int err = -EAGAIN;

	*ret_could = spin_begin(c, &until_ns);
	if (!*ret_could)
		return err;
	while (err == -EAGAIN && now_ns() < until_ns) {
		pause_briefly(c);
		err = take_next(c, ret);
	}
	atomic_fetch_sub(&spinners, 1);
	return err;
}

static int sleep_for_next(struct client_connection *c, struct client_message *ret,
			  struct deadline d)
{
	int err = -EAGAIN;

	for (bool last_look = false; err == -EAGAIN;) {
		/* What came since the last look raises no event. */
		err = link_arm(&c->link);
		if (!err)
			err = take_next(c, ret);
		if (err != -EAGAIN)
			break;
		if (last_look)
			return -ETIMEDOUT;
		last_look = deadline_passed(d);
		sleep_for_events(c, d);
		err = take_next(c, ret);
	}
	return err;
}

static int verbs_receive(struct client_connection *c, const struct client_hint *hint,
			 struct client_message *ret, struct deadline d)
{
	(void)hint;
	LOCK_SCOPE(&c->lock);
	if (c->held >= 0)
		link_release(&c->link, (unsigned)c->held);
	c->held = -1;
	int err = take_next(c, ret);
	if (err != -EAGAIN)
		return err;
	int64_t start_ns = now_ns();
	bool could_poll;
	err = poll_for_next(c, ret, &could_poll);
	if (err == -EAGAIN)
		err = sleep_for_next(c, ret, d);
	if (!err)
		spin_note(&c->spin, now_ns() - start_ns, spin_max_ns(), could_poll);
	return err;
}

static int verbs_take(struct client_connection *c, uint8_t *p, size_t n, size_t *got,
		      struct deadline d)
{
	(void)c;
	(void)p;
	(void)n;
	(void)got;
	(void)d;
	return -EOPNOTSUPP;
}

static void verbs_settle(struct client_connection *c)
{
	(void)c;
}

/* --- the end --- */

static void verbs_abort(struct client_connection *c)
{
	struct ibv_qp_attr reset = { .qp_state = IBV_QPS_RESET };

	LOCK_SCOPE(&c->lock);
	if (c->aborted)
		return;
	c->aborted = true;
	/* Where that fails nothing short of destroying it is safe, which it is as well: nobody posts
	 * to a queue pair that has failed. */
	if (c->link.has_qp && ibv_modify_qp(c->id->qp, &reset, IBV_QP_STATE)) {
		rdma_destroy_qp(c->id);
		c->link.has_qp = false;
	}
	if (!c->link.failed)
		atomic_fetch_add_explicit(&abandoned_reads, pulls_count(&c->pulls),
					  memory_order_relaxed);
	c->link.failed = true;
	wake_receiver(c);
}

uint64_t verbs_abandoned_reads(void)
{
	return atomic_load_explicit(&abandoned_reads, memory_order_relaxed);
}

/* What was sent last is to get there; then everything that was posted is to be over. */
static void drain(struct client_connection *c)
{
	struct deadline d = deadline_in_ms(DRAIN_MS);
	struct link_event e;
	int err = c->link.failed || !c->said_goodbye ? -ECONNRESET : 0;

	while (!err && c->link.sends_done < c->link.sends_posted && !deadline_passed(d)) {
		err = link_poll(&c->link, &e);
		if (!err && e.type == LINK_NOTHING)
			sleep_ms(WAIT_STEP_MS, d);
	}
	rdma_disconnect(c->id);
	c->link.failed = true;
	while (!link_is_drained(&c->link) && !deadline_passed(d)) {
		if (link_poll(&c->link, &e) != -ECONNRESET || e.type != LINK_NOTHING)
			continue;
		sleep_ms(WAIT_STEP_MS, d);
	}
}

static void verbs_close(struct client_connection *c)
{
	if (!c)
		return;
	watch_silence(&c->use);
	if (c->established && !c->aborted)
		drain(c);
	if (c->id) {
		link_close(&c->link);
		for (size_t i = 0; i < LINK_READS_MAX; i++)
			forget_own_memory(&c->pulls.pull[i]);
		rdma_destroy_id(c->id);
	}
	memory_device_put(c->memory);
	watch_leave(&c->use);
	if (c->channel)
		rdma_destroy_event_channel(c->channel);
	if (c->wake_fd >= 0)
		close(c->wake_fd);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

const struct client_transport client_verbs = {
	.name = "rdma",
	.capabilities = WIRE_CAP_INLINE | WIRE_CAP_LEASE,
	.inline_bytes_max = WIRE_MESSAGE_BYTES_MAX,
	.connect = verbs_connect,
	.send = verbs_send,
	.receive = verbs_receive,
	.take = verbs_take,
	.settle = verbs_settle,
	.pull = verbs_pull,
	.watch = verbs_watch,
	.abort = verbs_abort,
	.close = verbs_close,
};
