#include "filer/entry.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "filer.pb-c.h"
#include "filer/base/base.h"
#include "filer/entry_build.h"
#include "filer/json.h"

#define ENTRY_PB_MAX (64 * MIB)
/* Memory that one message may unpack to: honest ones need some four times their length, hostile ones
 * could ask for a hundred times. */
#define UNPACK_BYTES_MIN (64 * KIB)
#define UNPACK_FACTOR 8

/* protobuf-c's allocator, with a limit. */
struct budget {
	ProtobufCAllocator allocator;
	size_t left;
};

static void *budget_alloc(void *arg, size_t n)
{
	struct budget *b = arg;

	if (n > b->left)
		return NULL;
	b->left -= n;
	return malloc(n);
}

static void budget_free(void *arg, void *p)
{
	(void)arg;
	free(p);
}

static FilerPb__Entry *unpack(struct budget *b, const uint8_t *pb, size_t len)
{
	if (len > ENTRY_PB_MAX)
		return NULL;
	b->allocator = (ProtobufCAllocator){ budget_alloc, budget_free, b };
	b->left = UNPACK_BYTES_MIN + UNPACK_FACTOR * len;
	return filer_pb__entry__unpack(&b->allocator, len, pb);
}

static struct wire_bytes bytes_of(const ProtobufCBinaryData *b)
{
	return (struct wire_bytes){ b->data, b->len };
}

/* Protobuf has no other word for an absent time than 0. */
static struct wire_time time_of(int64_t s, int32_t ns)
{
	return (struct wire_time){ .set = s != WIRE_UNSET_TIME_S && (s != 0 || ns != 0),
				   .s = s,
				   .ns = ns };
}

static int add_chunk(struct wire_entry *e, const FilerPb__FileChunk *pb)
{
	struct wire_chunk w = {
		.file_id = { pb->file_id, strlen(pb->file_id) },
		.offset = pb->offset,
		.size = pb->size,
		.modified_ns = pb->modified_ts_ns,
		.cipher_key = bytes_of(&pb->cipher_key),
		.gzip = pb->is_compressed,
		.manifest = pb->is_chunk_manifest,
		.sse = pb->sse_type,
	};

	if (pb->fid)
		w.fid = (struct fid){ .key = pb->fid->file_key,
				      .volume_id = pb->fid->volume_id,
				      .cookie = pb->fid->cookie };
	w.md5.p = pb->e_tag;
	if (json_base64(pb->e_tag, &w.md5.len))
		w.md5.len = 0;
	return wire_add_chunk(e, &w);
}

static void fill_attributes(struct wire_entry *w, const FilerPb__FuseAttributes *a)
{
	w->mode = a->file_mode;
	w->uid = a->uid;
	w->gid = a->gid;
	w->rdev = a->rdev;
	w->ino = a->inode;
	w->ttl_s = a->ttl_sec;
	w->file_size = a->file_size;
	w->mtime = time_of(a->mtime, a->mtime_ns);
	w->ctime = time_of(a->ctime, a->ctime_ns);
	w->atime = time_of(a->atime, a->atime_ns);
	w->symlink = bytes_of(&a->symlink_target);
}

static int fill_entry(struct wire_entry *w, const FilerPb__Entry *pb)
{
	int err = 0;

	w->directory = pb->is_directory;
	w->hard_links = pb->hard_link_counter;
	w->content = bytes_of(&pb->content);
	if (pb->attributes)
		fill_attributes(w, pb->attributes);
	if (pb->remote_entry) {
		if (pb->remote_entry->remote_size < 0)
			return -EPROTO;
		w->remote_size = (uint64_t)pb->remote_entry->remote_size;
		w->remote_mtime_s = pb->remote_entry->remote_mtime;
	}
	for (size_t i = 0; !err && i < pb->n_chunks; i++)
		err = add_chunk(w, pb->chunks[i]);
	for (size_t i = 0; !err && i < pb->n_extended; i++)
		err = wire_add_extended(w, bytes_of(&pb->extended[i]->key),
					bytes_of(&pb->extended[i]->value));
	return err;
}

/* malloced; *ret untouched on failure. */
static int name_of(const FilerPb__Entry *pb, char **ret)
{
	const struct wire_bytes b = bytes_of(&pb->name);
	char *name;

	if (b.len > 0 && memchr(b.p, '\0', b.len))
		return -EPROTO;
	name = b.len > 0 ? strndup(b.p, b.len) : strdup("");
	if (!name)
		return -ENOMEM;
	*ret = name;
	return 0;
}

int entry_from_pb(const uint8_t *pb, size_t len, struct entry **ret, char **ret_name)
{
	struct budget budget;
	struct wire_entry w = { 0 };
	struct entry *built;
	FilerPb__Entry *e;
	int err;

	e = unpack(&budget, pb, len);
	if (!e)
		return -EPROTO;
	err = fill_entry(&w, e);
	if (!err)
		err = wire_build(&w, &built);
	if (err)
		goto release;
	err = ret_name ? name_of(e, ret_name) : 0;
	if (err)
		entry_put(built);
	else
		*ret = built;
release:
	wire_entry_release(&w);
	filer_pb__entry__free_unpacked(e, &budget.allocator);
	return err;
}

int wire_pb_name(const uint8_t *pb, size_t len, char **ret)
{
	struct budget budget;
	FilerPb__Entry *e = unpack(&budget, pb, len);
	int err;

	if (!e)
		return -EPROTO;
	err = name_of(e, ret);
	filer_pb__entry__free_unpacked(e, &budget.allocator);
	return err;
}
