/* kelpctl locate. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "filer/fid.h"
#include "filer/locate.h"
#include "fs/ctl.h"
#include "fs/ctl_path.h"
#include "fs/ctl_reach.h"

#define PERMISSION_BITS 07777
#define TIME_TEXT_BYTES 64

static const char *type_name(mode_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG:
		return "file";
	case S_IFDIR:
		return "directory";
	case S_IFLNK:
		return "symlink";
	default:
		return "special";
	}
}

static void format_time(const struct timespec *t, char buf[TIME_TEXT_BYTES])
{
	struct tm tm;
	char seconds[32] = "";

	if (gmtime_r(&t->tv_sec, &tm))
		strftime(seconds, sizeof(seconds), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(buf, TIME_TEXT_BYTES, "%s.%09ldZ", seconds, t->tv_nsec);
}

static cJSON *entry_json(const struct ctl_options *o, const struct entry *e)
{
	cJSON *json = cJSON_CreateObject();
	char text[TIME_TEXT_BYTES];

	cJSON_AddStringToObject(json, "path", o->cluster.path);
	cJSON_AddStringToObject(json, "type", type_name(e->mode));
	ctl_json_u64(json, "size", e->size);
	snprintf(text, sizeof(text), "%04o", (unsigned)e->mode & PERMISSION_BITS);
	cJSON_AddStringToObject(json, "mode", text);
	ctl_json_u64(json, "uid", e->uid);
	ctl_json_u64(json, "gid", e->gid);
	format_time(&e->mtime, text);
	cJSON_AddStringToObject(json, "mtime", text);
	ctl_json_u64(json, "chunks", e->n_chunks);
	ctl_json_u64(json, "content_bytes", e->content_len);
	cJSON_AddBoolToObject(json, "remote", e->remote_only);
	if (e->symlink)
		cJSON_AddStringToObject(json, "target", e->symlink);
	return json;
}

/* --- extents --- */

static cJSON *flags_json(const struct chunk *c)
{
	static const char *const sse[] = {
		[CHUNK_SSE_C] = "sse-c", [CHUNK_SSE_KMS] = "sse-kms", [CHUNK_SSE_S3] = "sse-s3"
	};
	cJSON *flags = cJSON_CreateArray();

	if (c->flags & CHUNK_GZIP)
		cJSON_AddItemToArray(flags, cJSON_CreateString("gzip"));
	if (c->cipher_key)
		cJSON_AddItemToArray(flags, cJSON_CreateString("encrypted"));
	if (c->sse && c->sse < ARRAY_LEN(sse))
		cJSON_AddItemToArray(flags, cJSON_CreateString(sse[c->sse]));
	return flags;
}

static cJSON *servers_json(struct ctl_reach *r, const struct chunk *c, struct deadline d,
			   const char **ret_problem)
{
	cJSON *servers = cJSON_CreateArray();
	struct ctl_places places;
	int err = ctl_reach_locate(r, c->fid.volume_id, d, &places);

	*ret_problem = err ? ctl_locate_error(err) : NULL;
	for (size_t i = 0; i < places.n && !err; i++) {
		char name[ENDPOINT_STR_MAX];

		ctl_endpoint_name(&places.servers[i]->addr, name);
		cJSON_AddItemToArray(servers, cJSON_CreateString(name));
	}
	return servers;
}

static cJSON *extent_json(struct ctl_reach *r, const struct chunkmap *m, const struct extent *x,
			  struct deadline d)
{
	const struct chunk *c = &m->chunks[x->chunk];
	cJSON *json = cJSON_CreateObject();
	const char *problem;
	char fid[FID_STR_MAX];

	fid_format(&c->fid, fid);
	ctl_json_u64(json, "offset", x->offset);
	ctl_json_u64(json, "length", x->len);
	ctl_json_u64(json, "chunk", x->chunk);
	cJSON_AddStringToObject(json, "fid", fid);
	ctl_json_u64(json, "chunk_offset", x->chunk_offset);
	ctl_json_u64(json, "chunk_size", c->size);
	ctl_json_u64(json, "modified_ns", (uint64_t)c->modified_ns);
	cJSON_AddItemToObject(json, "flags", flags_json(c));
	cJSON_AddItemToObject(json, "servers", servers_json(r, c, d, &problem));
	if (problem)
		cJSON_AddStringToObject(json, "problem", problem);
	return json;
}

static cJSON *hole_json(uint64_t offset, uint64_t len)
{
	cJSON *json = cJSON_CreateObject();

	ctl_json_u64(json, "offset", offset);
	ctl_json_u64(json, "length", len);
	cJSON_AddBoolToObject(json, "hole", true);
	return json;
}

/* All of the file, holes too, unless its bytes are not in chunks. */
static cJSON *extents_json(struct ctl_reach *r, const struct ctl_path *p, struct deadline d)
{
	const struct chunkmap *m = p->map;
	cJSON *list = cJSON_CreateArray();
	uint64_t at = 0;

	if (!S_ISREG(p->entry->mode) || p->entry->content_len || p->entry->remote_only)
		return list;
	for (size_t i = 0; i < m->n_extents; i++) {
		const struct extent *x = &m->extents[i];

		if (x->offset > at)
			cJSON_AddItemToArray(list, hole_json(at, x->offset - at));
		cJSON_AddItemToArray(list, extent_json(r, m, x, d));
		at = x->offset + x->len;
	}
	if (at < m->size)
		cJSON_AddItemToArray(list, hole_json(at, m->size - at));
	return list;
}

/* --- as a table --- */

static const char *member(const cJSON *object, const char *name)
{
	const cJSON *item = cJSON_GetObjectItemCaseSensitive(object, name);

	return item && item->valuestring ? item->valuestring : "";
}

static void join(const cJSON *object, const char *name, const char *none, char *buf, size_t bytes)
{
	const cJSON *item;
	size_t n = 0;

	snprintf(buf, bytes, "%s", none);
	cJSON_ArrayForEach(item, cJSON_GetObjectItemCaseSensitive(object, name))
	{
		if (n < bytes)
			n += (size_t)snprintf(buf + n, bytes - n, "%s%s", n ? "," : "",
					      item->valuestring);
	}
}

static void print_row(const cJSON *x)
{
	char flags[64], servers[1024];

	if (cJSON_HasObjectItem(x, "hole")) {
		printf("%14s %12s  hole\n", member(x, "offset"), member(x, "length"));
		return;
	}
	join(x, "flags", "-", flags, sizeof(flags));
	join(x, "servers", member(x, "problem"), servers, sizeof(servers));
	printf("%14s %12s %6s  %-20s %12s %12s  %-10s %s\n", member(x, "offset"),
	       member(x, "length"), member(x, "chunk"), member(x, "fid"), member(x, "chunk_offset"),
	       member(x, "chunk_size"), flags, servers);
}

static void print_table(const cJSON *json, const cJSON *extents)
{
	const cJSON *x;

	printf("%s: %s, %s bytes, mode %s, owner %s:%s, changed %s, %s chunks in its entry\n",
	       member(json, "path"), member(json, "type"), member(json, "size"),
	       member(json, "mode"), member(json, "uid"), member(json, "gid"),
	       member(json, "mtime"), member(json, "chunks"));
	if (cJSON_HasObjectItem(json, "target"))
		printf("its target is %s\n", member(json, "target"));
	if (strcmp(member(json, "content_bytes"), "0") != 0)
		printf("its %s bytes are in the entry itself\n", member(json, "content_bytes"));
	if (cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(json, "remote")))
		printf("its bytes are in remote storage\n");
	if (!cJSON_GetArraySize(extents))
		return;
	printf("%14s %12s %6s  %-20s %12s %12s  %-10s %s\n", "OFFSET", "LENGTH", "CHUNK", "FID",
	       "IN CHUNK", "CHUNK SIZE", "FLAGS", "SERVERS");
	cJSON_ArrayForEach(x, extents)
	{
		print_row(x);
	}
}

int ctl_locate(const struct ctl_options *o, char *message, size_t bytes)
{
	struct deadline d = deadline_in_ms(o->timeout_ms);
	struct ctl_reach r;
	struct ctl_path p;
	int err = ctl_reach_open(o, 1, false, &r, message, bytes);

	if (err)
		return err;
	err = ctl_path_open(&r, d, &p, message, bytes);
	if (err)
		goto close_reach;
	cJSON *json = entry_json(o, p.entry), *extents = extents_json(&r, &p, d);
	cJSON_AddItemToObject(json, "extents", extents);
	if (o->json) {
		err = ctl_json_print(stdout, json);
	} else {
		print_table(json, extents);
		cJSON_Delete(json);
	}
	ctl_path_close(&p);
close_reach:
	ctl_reach_close(&r);
	return err;
}
