/* Each place of the table says up to which time what was asked for of its names is of no value, and the
 * floor says it of everything. As that lies CHANGES_SETTLE_NS after the event, it does not matter in which
 * order a reader takes the time and the writer writes an event down. */
#include "filer/changes.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "filer.pb-c.h"
#include "filer/base/base.h"

#define PLACES ((size_t)1 << 16)

struct changes {
	atomic_int_fast64_t floor;
	atomic_int_fast64_t places[PLACES];
};

/* FNV's low bits alone do not mix well. */
static size_t place_of(uint64_t hash)
{
	return (hash ^ hash >> 32) % PLACES;
}

static void note_name(struct changes *c, const ProtobufCBinaryData *dir,
		      const ProtobufCBinaryData *name, int64_t until)
{
	uint64_t h = hash_bytes(HASH_SEED, dir->data, dir->len);

	/* the root is "/" and needs no further slash */
	if (dir->len != 1)
		h = hash_bytes(h, "/", 1);
	h = hash_bytes(h, name->data, name->len);
	atomic_store(&c->places[place_of(h)], until);
}

static bool same(const ProtobufCBinaryData *a, const ProtobufCBinaryData *b)
{
	return a->len == b->len && (a->len == 0 || memcmp(a->data, b->data, a->len) == 0);
}

static void note_event(struct changes *c, const FilerPb__SubscribeMetadataResponse *r,
		       int64_t until)
{
	const FilerPb__EventNotification *e = r->event_notification;
	const FilerPb__EventEntry *was = e->old_entry, *is = e->new_entry;
	const ProtobufCBinaryData *to = e->new_parent_path.len ? &e->new_parent_path
							       : &r->directory;

	if (was)
		note_name(c, &r->directory, &was->name, until);
	if (is)
		note_name(c, to, &is->name, until);
	if (!was || !was->is_directory)
		return;
	/* A directory that is not there any more: nor is what was below it, of which not every filer tells
	 * one by one. */
	if (!is || !is->is_directory || !same(to, &r->directory) || !same(&is->name, &was->name))
		changes_forget(c, until);
}

int changes_new(struct changes **ret)
{
	struct changes *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	*ret = c;
	return 0;
}

void changes_free(struct changes *c)
{
	free(c);
}

int changes_take(struct changes *c, const uint8_t *message, size_t len, int64_t now,
		 int64_t *ret_filer_ns)
{
	FilerPb__SubscribeMetadataResponse *r = filer_pb__subscribe_metadata_response__unpack(
		NULL, len, message);

	if (!r)
		return -EPROTO;
	if (r->event_notification)
		note_event(c, r, now + CHANGES_SETTLE_NS);
	*ret_filer_ns = r->event_notification ? 0 : r->ts_ns;
	filer_pb__subscribe_metadata_response__free_unpacked(r, NULL);
	return 0;
}

void changes_forget(struct changes *c, int64_t until)
{
	if (atomic_load(&c->floor) < until)
		atomic_store(&c->floor, until);
}

bool changes_none(struct changes *c, const char *path, int64_t since)
{
	size_t place = place_of(hash_bytes(HASH_SEED, path, strlen(path)));

	return atomic_load(&c->floor) < since && atomic_load(&c->places[place]) < since;
}
