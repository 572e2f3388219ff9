/* Thread model: one thread holds the stream of events and writes what it hears into atomics; everybody
 * else only reads those.
 *
 * A mark is the time at which it was taken. */
#include "filer/watch.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "filer.pb-c.h"
#include "filer/base/base.h"
#include "filer/base/stopper.h"
#include "filer/changes.h"
#include "filer/filer_client.h"
#include "filer/grpc.h"

#define SUBSCRIBE "/filer_pb.SeaweedFiler/SubscribeMetadata"
/* Before the next connection. */
#define PAUSE_MIN_MS 100
#define PAUSE_MAX_MS 10000
/* Later than any event: a filer then only says what time it has. */
#define NEVER_NS INT64_C(4102444800000000000)
/* A connection is renewed after that at the latest. */
#define STREAM_MAX_MS ((int64_t)24 * 3600 * 1000)

#define NOT_WATCHED SIZE_MAX

struct watch {
	/* Immutable. */
	struct filer *filer;
	struct changes *changes;
	char *prefix; /* of the paths whose events are asked for */
	int32_t client_id;

	/* filer_moves() when the stream was opened: events come from the filer that is asked.
	 * NOT_WATCHED: none come. */
	atomic_size_t watched;
	atomic_int_fast64_t heard_at_ms;
	atomic_uint_fast64_t messages, connections;

	/* Of the thread. */
	int64_t filer_ns; /* what the filer said that its clock shows; 0: nothing */
	int32_t epoch;
	size_t moves; /* of the present connection */

	pthread_t thread;
	struct http_cancel cancel;
	struct stopper stopper;
};

/* ---- The stream ---- */

/* The first message of a stream that no event can be in: the filer's time. */
static int on_time(void *arg, const uint8_t *message, size_t len)
{
	struct watch *w = arg;
	int err = changes_take(w->changes, message, len, now_ns(), &w->filer_ns);

	return err || w->filer_ns <= 0 ? err : -ECANCELED;
}

/* Any message means that the filer has us among those it tells, and has told what went before. */
static int on_message(void *arg, const uint8_t *message, size_t len)
{
	struct watch *w = arg;
	int64_t filer_ns;
	int err = changes_take(w->changes, message, len, now_ns(), &filer_ns);

	if (err)
		return err;
	if (filer_moves(w->filer) != w->moves)
		return -ECANCELED;
	atomic_fetch_add_explicit(&w->messages, 1, memory_order_relaxed);
	atomic_store_explicit(&w->heard_at_ms, now_ms(), memory_order_relaxed);
	if (atomic_load_explicit(&w->watched, memory_order_relaxed) == NOT_WATCHED) {
		changes_forget(w->changes, now_ns());
		atomic_fetch_add_explicit(&w->connections, 1, memory_order_relaxed);
		atomic_store(&w->watched, w->moves);
	}
	return 0;
}

static ProtobufCBinaryData bytes_of(const char *s)
{
	return (ProtobufCBinaryData){ .data = (uint8_t *)s, .len = strlen(s) };
}

static int subscribe(struct watch *w, int64_t since_ns,
		     int (*on)(void *arg, const uint8_t *message, size_t len))
{
	FilerPb__SubscribeMetadataRequest request = FILER_PB__SUBSCRIBE_METADATA_REQUEST__INIT;
	const struct filer_server *s = &w->filer->servers[w->moves % w->filer->n_servers];
	CLEANUP_FREE uint8_t *packed = NULL;

	if (s->addr.grpc_port == 0)
		return -ENXIO;
	request.client_name = bytes_of("kelpfs");
	request.path_prefix = bytes_of(w->prefix);
	request.since_ns = since_ns;
	request.client_id = w->client_id;
	request.client_epoch = ++w->epoch;
	request.client_supports_idle_heartbeat = true;
	size_t len = filer_pb__subscribe_metadata_request__get_packed_size(&request);
	packed = malloc(len);
	if (!packed)
		return -ENOMEM;
	filer_pb__subscribe_metadata_request__pack(&request, packed);
	return grpc_perform(w->filer->http, &(struct grpc_call){
						    .base_url = s->grpc_url,
						    .method = SUBSCRIBE,
						    .request = packed,
						    .request_len = len,
						    .on_message = on,
						    .arg = w,
						    .deadline = deadline_in_ms(STREAM_MAX_MS),
						    .silence_max_ms = WATCH_SILENT_MS,
						    .cancel = &w->cancel,
					    });
}

/* Events are asked for from the filer's own present time on, as clocks may differ. */
static void follow(struct watch *w)
{
	w->moves = filer_moves(w->filer);
	w->filer_ns = 0;
	subscribe(w, NEVER_NS, on_time);
	if (w->filer_ns == 0)
		return;
	subscribe(w, w->filer_ns - CHANGES_SETTLE_NS, on_message);
	atomic_store(&w->watched, NOT_WATCHED);
}

static void *watch_thread(void *arg)
{
	struct watch *w = arg;
	int64_t pause_ms = PAUSE_MIN_MS;
	uint64_t before;

	do {
		before = atomic_load_explicit(&w->connections, memory_order_relaxed);
		follow(w);
		if (atomic_load_explicit(&w->connections, memory_order_relaxed) != before)
			pause_ms = PAUSE_MIN_MS;
		else
			pause_ms = (int64_t)min_u64((uint64_t)pause_ms * 2, PAUSE_MAX_MS);
	} while (stopper_pause(&w->stopper, jitter_ms(pause_ms)));
	return NULL;
}

/* ---- The interface ---- */

/* Of the path, so much. No slash behind it: what becomes of the directory itself is an event of its own, and
 * the only one where a filer drops a bucket as a whole, which is why a mount below one listens for that,
 * too. Other names with the same beginning only cost messages. */
static int watched_length(const char *path)
{
	static const char buckets[] = "/buckets/";
	const char *slash = NULL;

	if (strncmp(path, buckets, sizeof(buckets) - 1) == 0)
		slash = strchr(path + sizeof(buckets) - 1, '/');
	return (int)(slash ? (size_t)(slash - path) : strlen(path));
}

int watch_new(struct filer *f, const char *path, struct watch **ret)
{
	struct watch *w = calloc(1, sizeof(*w));
	uint32_t id = 0;
	int err = -ENOMEM;

	if (!w)
		return err;
	w->filer = f;
	err = changes_new(&w->changes);
	if (err)
		goto free_watch;
	err = -ENOMEM;
	if (asprintf(&w->prefix, "%.*s", watched_length(path), path) < 0)
		goto free_changes;
	if (getrandom(&id, sizeof(id), 0) != (ssize_t)sizeof(id)) {
		err = -EIO;
		goto free_prefix;
	}
	w->client_id = (int32_t)(id & INT32_MAX);
	atomic_init(&w->watched, NOT_WATCHED);
	err = http_cancel_init(&w->cancel);
	if (err)
		goto free_prefix;
	err = stopper_init(&w->stopper);
	if (err)
		goto destroy_cancel;
	err = -pthread_create(&w->thread, NULL, watch_thread, w);
	if (err)
		goto destroy_stopper;
	*ret = w;
	return 0;

destroy_stopper:
	stopper_destroy(&w->stopper);
destroy_cancel:
	http_cancel_destroy(&w->cancel);
free_prefix:
	free(w->prefix);
free_changes:
	changes_free(w->changes);
free_watch:
	free(w);
	return err;
}

void watch_free(struct watch *w)
{
	if (!w)
		return;
	stopper_stop(&w->stopper);
	http_cancel(&w->cancel);
	pthread_join(w->thread, NULL);
	stopper_destroy(&w->stopper);
	http_cancel_destroy(&w->cancel);
	free(w->prefix);
	changes_free(w->changes);
	free(w);
}

static bool is_live(struct watch *w)
{
	return atomic_load(&w->watched) == filer_moves(w->filer) &&
	       now_ms() - atomic_load_explicit(&w->heard_at_ms, memory_order_relaxed) <
		       WATCH_SILENT_MS;
}

int64_t watch_mark(struct watch *w)
{
	if (!w)
		return 0;
	/* first: should the stream break and come back meanwhile, the mark is from before */
	int64_t now = now_ns();
	return is_live(w) ? now : 0;
}

bool watch_unchanged(struct watch *w, const char *path, int64_t mark)
{
	if (!w || mark == 0 || !is_live(w))
		return false;
	return changes_none(w->changes, path, mark);
}

void watch_stats(struct watch *w, struct watch_stats *ret)
{
	*ret = (struct watch_stats){
		.messages = atomic_load_explicit(&w->messages, memory_order_relaxed),
		.connections = atomic_load_explicit(&w->connections, memory_order_relaxed),
		.live = is_live(w),
	};
}
