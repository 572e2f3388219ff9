/* The TCP transport of the agent.
 *
 * Threads: each event thread has an epoll set, a disk and its connections, and shares none of them.
 * The first one accepts, and hands a connection to the thread that has the fewest; the connection
 * stays there. The listener's own fields are immutable while threads run, but for `stopping`. */
#include "rdma/agent/tcp.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include "filer/base/listen.h"

#define THREADS_MAX 16
#define BACKLOG 512
#define EVENTS_MAX 64
#define ACCEPTS_MAX 64 /* before connections get their turn */
/* Without descriptors or memory, accepting rests for so long. */
#define ACCEPT_REST_MS 100
/* From the last byte sent until the peer has to have closed. */
#define LINGER_MS 1000
/* What the kernel takes of one connection beyond what is under way on the network: a slow reader's
 * answers stay in the page cache. */
#define UNSENT_BYTES_MAX (512 * 1024)
/* Blocks that a thread keeps for the next answers. */
#define SPARE_BLOCKS_MAX 16

struct listener {
	struct agent *agent;
	int fd;
	size_t block_bytes;
	unsigned n_threads;
	unsigned n_started; /* only who makes and stops the listener looks */
	struct deadline stop_deadline; /* set before stopping */
	atomic_bool stopping;
	struct tcp_thread threads[THREADS_MAX];
};

/* --- connections --- */

void tcp_mark_changed(struct connection *c)
{
	if (c->is_changed)
		return;
	c->is_changed = true;
	c->next_changed = c->thread->changed;
	c->thread->changed = c;
}

void tcp_drop(struct connection *c)
{
	if (c->state >= CONNECTION_DEAD)
		return;
	c->state = CONNECTION_DEAD;
	close(c->fd); /* which takes it out of the epoll set */
	tcp_mark_changed(c);
}

static void free_connection(struct connection *c)
{
	struct agent *agent = c->thread->listener->agent;

	session_free(c->session);
	free(c->in);
	free(c);
	atomic_fetch_sub(&agent->active, 1);
}

/* Tells the session, and frees it all when nothing is under way any more. */
static void bury(struct connection *c)
{
	/* A file that is read must stay open, or its descriptor may become another's. */
	if (c->warming)
		return;
	if (c->state == CONNECTION_DEAD) {
		tcp_stream_abandon(c);
		session_lost(c->session);
		c->state = CONNECTION_LOST;
	}
	if (session_is_busy(c->session) || c->is_changed)
		return;
	DL_DELETE(c->thread->connections, c);
	atomic_fetch_sub(&c->thread->n_connections, 1);
	free_connection(c);
}

static int watch(struct tcp_thread *t, int fd, uint32_t events, void *data)
{
	struct epoll_event e = { .events = events, .data.ptr = data };

	return epoll_ctl(t->epoll_fd, EPOLL_CTL_ADD, fd, &e) ? -errno : 0;
}

static void watch_for(struct connection *c, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = c };

	if (c->events == events)
		return;
	if (epoll_ctl(c->thread->epoll_fd, EPOLL_CTL_MOD, c->fd, &e))
		tcp_drop(c);
	c->events = events;
}

/* Input that is not wanted is still watched for, until some arrives: mostly it is wanted again before
 * that. */
static void update_events(struct connection *c, bool unwanted_input)
{
	uint32_t events = c->events & ~(uint32_t)EPOLLOUT;

	if (tcp_stream_wants_input(c))
		events |= EPOLLIN;
	else if (unwanted_input)
		events &= ~(uint32_t)EPOLLIN;
	if (c->state == CONNECTION_OPEN && c->write_blocked)
		events |= EPOLLOUT;
	watch_for(c, events);
}

static void connection_advance(struct connection *c, bool unwanted_input)
{
	c->advancing = true;
	if (c->state < CONNECTION_DEAD) {
		if (!c->write_blocked)
			tcp_stream_flush(c);
		tcp_stream_deliver(c);
	}
	c->advancing = false;
	if (c->state < CONNECTION_DEAD)
		update_events(c, unwanted_input);
	if (c->state >= CONNECTION_DEAD)
		bury(c);
}

static void on_event(struct connection *c, uint32_t events)
{
	bool wanted = tcp_stream_wants_input(c);

	if (c->state >= CONNECTION_DEAD)
		return;
	if (events & (EPOLLERR | EPOLLHUP)) {
		tcp_drop(c);
		return;
	}
	if (events & EPOLLOUT)
		c->write_blocked = false;
	if ((events & EPOLLIN) && wanted)
		tcp_stream_receive(c);
	if ((events & EPOLLIN) && !wanted)
		update_events(c, true);
	tcp_mark_changed(c);
}

static void adopt(struct tcp_thread *t, struct connection *c)
{
	c->thread = t;
	DL_APPEND(t->connections, c);
	c->events = EPOLLIN;
	if (watch(t, c->fd, c->events, c)) {
		tcp_drop(c);
		return;
	}
	if (t->shutting_down)
		session_shut_down(c->session);
}

static void adopt_incoming(struct tcp_thread *t)
{
	struct connection *list;

	{
		LOCK_SCOPE(&t->lock);
		list = t->incoming;
		t->incoming = NULL;
	}
	while (list) {
		struct connection *c = list;

		list = c->next;
		adopt(t, c);
	}
}

/* --- accepting --- */

static int make_connection(struct tcp_thread *t, int fd, bool refused, struct connection **ret)
{
	struct agent *agent = t->listener->agent;
	struct connection *c = calloc(1, sizeof(*c));
	int on = 1, unsent = UNSENT_BYTES_MAX, err = -ENOMEM;

	if (!c)
		return -ENOMEM;
	c->in = malloc(WIRE_MESSAGE_BYTES_MAX);
	if (!c->in)
		goto free_connection;
	struct session_config cfg = { .agent = agent,
				      .disk = t->disk,
				      .transport = &agent_tcp,
				      .connection = c,
				      .refused = refused };
	err = session_new(&cfg, &c->session);
	if (err)
		goto free_input;
	c->fd = fd;
	c->thread = t;
	c->staging.all = &agent->staging;
	c->staging.max_bytes = agent->cfg.staging_connection_bytes_max;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &unsent, sizeof(unsent));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	*ret = c;
	return 0;

free_input:
	free(c->in);
free_connection:
	free(c);
	return err;
}

static struct tcp_thread *least_busy(struct listener *l)
{
	struct tcp_thread *best = &l->threads[0];

	for (unsigned i = 1; i < l->n_threads; i++)
		if (atomic_load(&l->threads[i].n_connections) < atomic_load(&best->n_connections))
			best = &l->threads[i];
	return best;
}

static void wake(struct tcp_thread *t)
{
	uint64_t one = 1;
	ssize_t n = write(t->wake_fd, &one, sizeof(one));

	(void)n; /* full: it is awake */
}

static void hand_over(struct tcp_thread *self, struct tcp_thread *to, struct connection *c)
{
	atomic_fetch_add(&to->n_connections, 1);
	if (to == self) {
		adopt(to, c);
		return;
	}
	{
		LOCK_SCOPE(&to->lock);
		c->next = to->incoming;
		to->incoming = c;
	}
	wake(to);
}

static void take_connection(struct tcp_thread *t, int fd)
{
	struct listener *l = t->listener;
	unsigned max = l->agent->cfg.connections_max;
	unsigned before = atomic_fetch_add(&l->agent->active, 1);
	struct tcp_thread *to = least_busy(l);
	struct connection *c;

	agent_count(&l->agent->counters.connections, 1);
	if (before >= max + AGENT_REFUSALS_MAX || make_connection(to, fd, before >= max, &c)) {
		agent_count(&l->agent->counters.refused, 1);
		atomic_fetch_sub(&l->agent->active, 1);
		close(fd);
		return;
	}
	hand_over(t, to, c);
}

static void accept_connections(struct tcp_thread *t)
{
	struct listener *l = t->listener;

	for (int i = 0; i < ACCEPTS_MAX; i++) {
		int fd = accept4(l->fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

		if (fd >= 0) {
			take_connection(t, fd);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
			epoll_ctl(t->epoll_fd, EPOLL_CTL_DEL, l->fd, NULL);
			t->accept_at_ms = now_ms() + ACCEPT_REST_MS;
		}
		return;
	}
}

/* --- threads --- */

static bool is_stuck(const struct connection *c, int64_t now)
{
	switch (c->state) {
	case CONNECTION_OPEN:
		return c->out_first && !c->warming && now - c->progress_ms >= AGENT_STALL_MS;
	case CONNECTION_LINGERING:
		return now - c->progress_ms >= LINGER_MS;
	default:
		return false;
	}
}

static void tick(struct tcp_thread *t, int64_t now)
{
	struct connection *c, *tmp;

	t->tick_at_ms = now + SESSION_TICK_MS;
	if (t->accept_at_ms && now >= t->accept_at_ms) {
		t->accept_at_ms = 0;
		watch(t, t->listener->fd, EPOLLIN, &t->listener->fd);
	}
	DL_FOREACH_SAFE (t->connections, c, tmp) {
		if (is_stuck(c, now)) {
			if (c->state == CONNECTION_OPEN)
				agent_count(&t->listener->agent->counters.stalled, 1);
			tcp_drop(c);
		} else if (c->state == CONNECTION_OPEN) {
			session_tick(c->session, now);
		}
		/* Those that are dead wait for the disk. */
		if (c->state >= CONNECTION_DEAD)
			tcp_mark_changed(c);
	}
}

static void begin_shutdown(struct tcp_thread *t)
{
	struct connection *c;

	t->shutting_down = true;
	if (t == &t->listener->threads[0]) {
		t->accept_at_ms = 0;
		close(t->listener->fd);
	}
	DL_FOREACH (t->connections, c)
		if (c->state == CONNECTION_OPEN)
			session_shut_down(c->session);
}

/* At the end of the time for it. */
static void drop_all(struct tcp_thread *t)
{
	struct connection *c;

	DL_FOREACH (t->connections, c)
		tcp_drop(c);
}

static void handle_event(struct tcp_thread *t, const struct epoll_event *e)
{
	uint64_t count;

	if (e->data.ptr == &t->listener->fd) {
		accept_connections(t);
	} else if (e->data.ptr == &t->wake_fd) {
		ssize_t n = read(t->wake_fd, &count, sizeof(count));

		(void)n;
		adopt_incoming(t);
	} else if (e->data.ptr == t->disk) {
		disk_reap(t->disk);
	} else {
		on_event(e->data.ptr, e->events);
	}
}

/* A connection may change again while it is looked at. */
static void advance_changed(struct tcp_thread *t)
{
	struct connection *list = t->changed;

	t->changed = NULL;
	while (list) {
		struct connection *c = list;

		list = c->next_changed;
		c->is_changed = false;
		connection_advance(c, false);
	}
	disk_submit(t->disk);
}

static void *run_thread(void *arg)
{
	struct tcp_thread *t = arg;
	struct listener *l = t->listener;
	struct epoll_event events[EVENTS_MAX];

	for (;;) {
		int64_t now = now_ms();
		int timeout_ms = t->tick_at_ms > now ? (int)(t->tick_at_ms - now) : 0;
		int n = epoll_wait(t->epoll_fd, events, EVENTS_MAX, t->changed ? 0 : timeout_ms);

		for (int i = 0; i < n; i++)
			handle_event(t, &events[i]);
		now = now_ms();
		if (now >= t->tick_at_ms)
			tick(t, now);
		if (atomic_load(&l->stopping)) {
			if (!t->shutting_down)
				begin_shutdown(t);
			if (deadline_passed(l->stop_deadline))
				drop_all(t);
		}
		advance_changed(t);
		if (t->shutting_down && !t->connections)
			break;
	}
	return NULL;
}

/* Accepted when this thread had ended. */
static void discard_incoming(struct tcp_thread *t)
{
	while (t->incoming) {
		struct connection *c = t->incoming;

		t->incoming = c->next;
		close(c->fd);
		session_lost(c->session);
		free_connection(c);
	}
}

static void close_thread(struct tcp_thread *t)
{
	discard_incoming(t);
	while (t->blocks) {
		struct block *b = t->blocks;

		t->blocks = b->next;
		free(b);
	}
	disk_free(t->disk);
	if (t->wake_fd >= 0)
		close(t->wake_fd);
	if (t->epoll_fd >= 0)
		close(t->epoll_fd);
	pthread_mutex_destroy(&t->lock);
}

static int open_thread(struct listener *l, struct tcp_thread *t)
{
	t->listener = l;
	pthread_mutex_init(&t->lock, NULL);
	t->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
	t->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int err = t->epoll_fd < 0 || t->wake_fd < 0 ? -errno : disk_new(&t->disk);

	if (!err)
		err = watch(t, t->wake_fd, EPOLLIN, &t->wake_fd);
	if (!err && disk_fd(t->disk) >= 0)
		err = watch(t, disk_fd(t->disk), EPOLLIN, t->disk);
	if (!err && t == &l->threads[0])
		err = watch(t, l->fd, EPOLLIN, &l->fd);
	if (err)
		close_thread(t);
	return err;
}

/* All are made before the first one runs: it hands connections to any of them. */
static int start_threads(struct listener *l, unsigned n)
{
	int err = 0;

	for (; l->n_threads < n && !err; l->n_threads += err == 0)
		err = open_thread(l, &l->threads[l->n_threads]);
	for (; l->n_started < n && !err; l->n_started += err == 0)
		err = -pthread_create(&l->threads[l->n_started].thread, NULL, run_thread,
				      &l->threads[l->n_started]);
	return err;
}

/* --- the listener --- */

static void tcp_stop(struct listener *l, struct deadline d)
{
	l->stop_deadline = d;
	atomic_store(&l->stopping, true);
	for (unsigned i = 0; i < l->n_started; i++)
		wake(&l->threads[i]);
	for (unsigned i = 0; i < l->n_started; i++)
		pthread_join(l->threads[i].thread, NULL);
	for (unsigned i = 0; i < l->n_threads; i++)
		close_thread(&l->threads[i]);
	free(l);
}

static int tcp_listen(struct agent *a, const struct listener_config *cfg, struct listener **ret)
{
	struct listener *l = calloc(1, sizeof(*l));
	unsigned n = cfg->threads < 1 ? 1 : cfg->threads;

	if (!l)
		return -ENOMEM;
	l->agent = a;
	/* The longest tail of a record needs memory too. */
	l->block_bytes = max_u64(a->cfg.small_bytes_max + KIB, STORE_TAIL_BYTES_MAX);
	int err = listen_tcp(cfg->host, cfg->port, BACKLOG, &l->fd);
	if (err) {
		free(l);
		return err;
	}
	err = start_threads(l, n > THREADS_MAX ? THREADS_MAX : n);
	if (err) {
		if (l->n_started == 0)
			close(l->fd);
		tcp_stop(l, deadline_in_ms(0));
		return err;
	}
	*ret = l;
	return 0;
}

/* --- memory for answers --- */

static int tcp_stage(struct connection *c, size_t bytes, struct staged *ret)
{
	struct tcp_thread *t = c->thread;
	size_t block_bytes = t->listener->block_bytes;

	if (bytes > block_bytes)
		return -EMSGSIZE;
	if (!staging_take(&c->staging, block_bytes))
		return -ENOBUFS;
	struct block *b = t->blocks;
	if (b) {
		t->blocks = b->next;
		t->n_blocks--;
	} else {
		b = malloc(block_bytes);
	}
	if (!b) {
		staging_give(&c->staging, block_bytes);
		return -ENOBUFS;
	}
	*ret = (struct staged){ .ptr = (uint8_t *)b, .bytes = block_bytes };
	return 0;
}

static void tcp_unstage(struct connection *c, struct staged *s)
{
	struct tcp_thread *t = c->thread;
	struct block *b = (struct block *)s->ptr;

	staging_give(&c->staging, s->bytes);
	if (t->n_blocks >= SPARE_BLOCKS_MAX) {
		free(b);
		return;
	}
	b->next = t->blocks;
	t->blocks = b;
	t->n_blocks++;
}

const struct transport agent_tcp = {
	.name = "tcp",
	.capabilities = WIRE_CAP_STREAM,
	.listen = tcp_listen,
	.stop = tcp_stop,
	.send = tcp_stream_send,
	.stage = tcp_stage,
	.unstage = tcp_unstage,
};
