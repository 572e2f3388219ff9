/* Thread model: one thread, started with the first device, reads the events of devices and of ids that
 * were given to it. The lock protects everything but what says else. */
#include "rdma/verbs_watch.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include <utlist.h>

#include "filer/base/base.h"
#include "rdma/verbs_memory.h"

#define DEVICES_POLLED_MAX 64

/*   in use -> removed (told by an event; uses are told that they are lost)
 *          -> freed, with the last use, by whoever takes it off the list */
struct watched_device {
	struct watched_device *next; /* utlist */
	struct ibv_context *ctx; /* immutable, as id */
	struct rdma_cm_id
		*id; /* bound to the device, so that its removal is told; NULL: impossible */
	struct device_use own; /* the id's; in no list */
	struct device_use *uses; /* utlist */
	bool removed;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
/* Starting and ending the thread; taken before the other one. */
static pthread_mutex_t life_lock = PTHREAD_MUTEX_INITIALIZER;
static struct watched_device *devices;
static struct rdma_event_channel *channel; /* immutable while the thread runs, as the next */
static int wake_fd = -1;
static pthread_t thread;
static bool runs; /* life_lock */
static bool stop;

/* --- devices --- */

/* Takes its descriptors from librdmacm, which closes what is then in their place at some later time. Its
 * reference through the id has to be alive yet. */
static void let_go(const struct ibv_context *ctx)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (null < 0)
		return;
	dup3(null, ctx->async_fd, O_CLOEXEC);
	dup3(null, ctx->cmd_fd, O_CLOEXEC);
	close(null);
}

/* Without the lock: destroying the id waits for its events to be acknowledged. */
static void device_free(struct watched_device *d)
{
	memory_forget(d->ctx);
	if (d->id && d->removed)
		let_go(d->ctx);
	if (d->id)
		rdma_destroy_id(d->id);
	free(d);
}

/* Takes one off the list that has no uses. */
static struct watched_device *take_unused(bool only_removed)
{
	struct watched_device *d;

	LOCK_SCOPE(&lock);
	LL_FOREACH (devices, d) {
		if (!d->uses && (d->removed || !only_removed)) {
			LL_DELETE(devices, d);
			return d;
		}
	}
	return NULL;
}

static void free_unused(bool only_removed)
{
	struct watched_device *d;

	while ((d = take_unused(only_removed)))
		device_free(d);
}

/* With the lock. port 0: all. */
static void lose(struct watched_device *d, uint8_t port)
{
	struct device_use *u;

	DL_FOREACH (d->uses, u)
		if (u->lost && (port == 0 || u->port == port))
			u->lost(u);
}

static void on_removed(struct watched_device *d)
{
	d->removed = true;
	lose(d, 0);
}

/* --- events --- */

static bool ends_connection(enum rdma_cm_event_type type)
{
	switch (type) {
	case RDMA_CM_EVENT_DISCONNECTED:
	case RDMA_CM_EVENT_ADDR_CHANGE:
	case RDMA_CM_EVENT_CONNECT_ERROR:
	case RDMA_CM_EVENT_UNREACHABLE:
	case RDMA_CM_EVENT_REJECTED:
		return true;
	default:
		return false;
	}
}

/* Until its event is acknowledged an id stays, and with it its use. */
static void take_cm_events(void)
{
	struct rdma_cm_event *e;

	while (rdma_get_cm_event(channel, &e) == 0) {
		struct device_use *u = e->id->context;

		pthread_mutex_lock(&lock);
		if (e->event == RDMA_CM_EVENT_DEVICE_REMOVAL)
			on_removed(u->device);
		else if (u->lost && ends_connection(e->event))
			u->lost(u);
		pthread_mutex_unlock(&lock);
		rdma_ack_cm_event(e);
	}
}

/* With the lock. The use may have ended; only its address is looked at. */
static void lose_one(struct watched_device *d, const void *context)
{
	struct device_use *u;

	DL_FOREACH (d->uses, u) {
		if (u == context && u->lost) {
			u->lost(u);
			return;
		}
	}
}

/* With the lock. Acknowledged before anybody is told: who destroys a queue pair waits for that. */
static void on_async_event(struct watched_device *d, struct ibv_async_event *e)
{
	enum ibv_event_type type = e->event_type;
	void *context = NULL;
	uint8_t port = 0;

	switch (type) {
	case IBV_EVENT_QP_FATAL:
	case IBV_EVENT_QP_REQ_ERR:
	case IBV_EVENT_QP_ACCESS_ERR:
		context = e->element.qp->qp_context;
		break;
	case IBV_EVENT_CQ_ERR:
		context = e->element.cq->cq_context;
		break;
	case IBV_EVENT_PORT_ERR:
		port = (uint8_t)e->element.port_num;
		break;
	default:
		break;
	}
	ibv_ack_async_event(e);
	if (context)
		lose_one(d, context);
	else if (type == IBV_EVENT_DEVICE_FATAL || port > 0)
		lose(d, port);
}

static void take_async_events(void)
{
	struct ibv_async_event e;
	struct watched_device *d;

	LOCK_SCOPE(&lock);
	LL_FOREACH (devices, d) {
		while (!d->removed) {
			if (ibv_get_async_event(d->ctx, &e) == 0)
				on_async_event(d, &e);
			else if (errno == EAGAIN || errno == EINTR)
				break;
			else
				on_removed(d); /* the kernel has cut us off */
		}
	}
}

/* Returns how many; 0: the thread is to end. */
static nfds_t list_descriptors(struct pollfd *ret)
{
	struct watched_device *d;
	nfds_t n = 0;

	LOCK_SCOPE(&lock);
	if (stop)
		return 0;
	ret[n++] = (struct pollfd){ .fd = wake_fd, .events = POLLIN };
	ret[n++] = (struct pollfd){ .fd = channel->fd, .events = POLLIN };
	LL_FOREACH (devices, d)
		if (!d->removed && n < DEVICES_POLLED_MAX)
			ret[n++] = (struct pollfd){ .fd = d->ctx->async_fd, .events = POLLIN };
	return n;
}

static void *watch(void *arg)
{
	struct pollfd fds[DEVICES_POLLED_MAX];
	uint64_t count;
	nfds_t n;

	while ((n = list_descriptors(fds)) > 0) {
		if (poll(fds, n, -1) < 0)
			continue;
		if (fds[0].revents) {
			ssize_t got = read(wake_fd, &count, sizeof(count));

			(void)got;
		}
		take_async_events();
		take_cm_events();
		free_unused(true);
	}
	return arg;
}

static void wake(void)
{
	uint64_t one = 1;
	ssize_t n = write(wake_fd, &one, sizeof(one));

	(void)n;
}

/* --- the thread's life; with life_lock --- */

static int unblock(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ? -errno : 0;
}

static void close_channel(void)
{
	if (channel)
		rdma_destroy_event_channel(channel);
	if (wake_fd >= 0)
		close(wake_fd);
	channel = NULL;
	wake_fd = -1;
}

static int start(void)
{
	int err = 0;

	if (runs)
		return 0;
	wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	channel = rdma_create_event_channel();
	if (wake_fd < 0 || !channel)
		err = -EMFILE;
	if (!err)
		err = unblock(channel->fd);
	stop = false;
	if (!err)
		err = -pthread_create(&thread, NULL, watch, NULL);
	if (err)
		close_channel();
	runs = !err;
	return err;
}

void watch_close(void)
{
	LOCK_SCOPE(&life_lock);

	if (!runs)
		return;
	free_unused(false);
	pthread_mutex_lock(&lock);
	stop = !devices;
	pthread_mutex_unlock(&lock);
	if (!stop)
		return;
	wake();
	pthread_join(thread, NULL);
	close_channel();
	runs = false;
}

/* --- uses --- */

/* Where it cannot be bound, the connections' own events still tell of the removal. */
static void bind_own(struct watched_device *d, const struct rdma_cm_id *like)
{
	struct sockaddr_storage a = like->route.addr.src_storage;

	if (a.ss_family == AF_INET6)
		((struct sockaddr_in6 *)&a)->sin6_port = 0;
	else
		((struct sockaddr_in *)&a)->sin_port = 0;
	if (rdma_create_id(channel, &d->id, &d->own, RDMA_PS_TCP)) {
		d->id = NULL;
		return;
	}
	if (rdma_bind_addr(d->id, (struct sockaddr *)&a) == 0 && d->id->verbs == d->ctx)
		return;
	rdma_destroy_id(d->id);
	d->id = NULL;
}

/* With life_lock. */
static struct watched_device *device_add(const struct rdma_cm_id *id)
{
	struct watched_device *d = calloc(1, sizeof(*d));

	if (!d)
		return NULL;
	d->ctx = id->verbs;
	d->own.device = d;
	if (unblock(d->ctx->async_fd)) {
		free(d);
		return NULL;
	}
	bind_own(d, id);
	pthread_mutex_lock(&lock);
	LL_PREPEND(devices, d);
	pthread_mutex_unlock(&lock);
	wake();
	return d;
}

/* 0, or -ENOENT: the device is new. */
static int join(struct device_use *u, const struct rdma_cm_id *id)
{
	struct watched_device *d;

	LOCK_SCOPE(&lock);
	LL_SEARCH_SCALAR(devices, d, ctx, id->verbs);
	if (!d)
		return -ENOENT;
	if (d->removed)
		return -ENODEV;
	DL_APPEND(d->uses, u);
	u->device = d;
	return 0;
}

int watch_enter(struct device_use *u, const struct rdma_cm_id *id,
		void (*lost)(struct device_use *u))
{
	LOCK_SCOPE(&life_lock);

	*u = (struct device_use){ .port = id->port_num, .lost = lost };
	int err = start();
	if (!err)
		err = join(u, id);
	if (err == -ENOENT)
		err = device_add(id) ? join(u, id) : -ENOMEM;
	return err;
}

int watch_events(struct device_use *u, struct rdma_cm_id *id)
{
	id->context = u;
	return rdma_migrate_id(id, channel) ? -errno : 0;
}

void watch_silence(struct device_use *u)
{
	LOCK_SCOPE(&lock);

	u->lost = NULL;
}

void watch_leave(struct device_use *u)
{
	if (!u->device)
		return;
	pthread_mutex_lock(&lock);
	DL_DELETE(u->device->uses, u);
	pthread_mutex_unlock(&lock);
	u->device = NULL;
	free_unused(true);
}
