#include "tests/support/volume_files.h"

#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "filer/base/crc32c.h"

#define RECORD_ALIGN 8
#define LAST_MODIFIED_BYTES 5
#define TOMBSTONE_SIZE UINT32_MAX

struct volume_files {
	int dat_fd, idx_fd;
	unsigned version, entry_bytes;
};

/* A record in the making. */
struct text {
	uint8_t *bytes;
	size_t len;
};

static void fail(const char *what)
{
	perror(what);
	abort();
}

static void put_bytes(struct text *t, const void *p, size_t n)
{
	t->bytes = realloc(t->bytes, t->len + n + 1);
	if (!t->bytes)
		fail("realloc");
	if (n > 0)
		memcpy(t->bytes + t->len, p, n);
	t->len += n;
}

static void put_u8(struct text *t, uint8_t v)
{
	put_bytes(t, &v, sizeof(v));
}

static void put_u16(struct text *t, uint16_t v)
{
	v = htobe16(v);
	put_bytes(t, &v, sizeof(v));
}

static void put_u32(struct text *t, uint32_t v)
{
	v = htobe32(v);
	put_bytes(t, &v, sizeof(v));
}

static void put_u64(struct text *t, uint64_t v)
{
	v = htobe64(v);
	put_bytes(t, &v, sizeof(v));
}

static int create_file(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);

	if (fd < 0)
		fail(path);
	return fd;
}

static void append(int fd, const void *p, size_t n)
{
	if (write(fd, p, n) != (ssize_t)n)
		fail("write");
}

struct volume_files *volume_files_new(const char *dat_path, const char *idx_path,
				      const struct volume_shape *shape)
{
	struct volume_files *v = calloc(1, sizeof(*v));
	struct text super = { 0 };

	if (!v)
		fail("calloc");
	v->version = shape->version ? shape->version : 3;
	v->entry_bytes = shape->entry_bytes ? shape->entry_bytes : 17;
	v->dat_fd = create_file(dat_path);
	v->idx_fd = create_file(idx_path);
	put_u8(&super, (uint8_t)v->version);
	put_u8(&super, 0); /* replication */
	put_u16(&super, 0); /* TTL */
	put_u16(&super, shape->revision);
	put_u16(&super, shape->extra_bytes);
	for (unsigned i = 0; i < shape->extra_bytes; i++)
		put_u8(&super, 0xee);
	while (super.len % RECORD_ALIGN != 0)
		put_u8(&super, 0);
	append(v->dat_fd, super.bytes, super.len);
	free(super.bytes);
	return v;
}

void volume_files_free(struct volume_files *v)
{
	close(v->dat_fd);
	close(v->idx_fd);
	free(v);
}

static void put_counted(struct text *t, const char *s, size_t length_bytes)
{
	size_t n = s ? strlen(s) : 0;

	if (length_bytes == 1)
		put_u8(t, (uint8_t)n);
	else
		put_u16(t, (uint16_t)n);
	put_bytes(t, s, n);
}

static void put_fields(struct text *t, const struct record_shape *r)
{
	put_u8(t, r->flags);
	if (r->flags & RECORD_NAME)
		put_counted(t, r->name, 1);
	if (r->flags & RECORD_MIME)
		put_counted(t, r->mime, 1);
	if (r->flags & RECORD_LAST_MODIFIED)
		put_bytes(t, "\0\x65\0\0\0", LAST_MODIFIED_BYTES);
	if (r->flags & RECORD_TTL) {
		put_u8(t, r->ttl_count);
		put_u8(t, r->ttl_unit);
	}
	if (r->flags & RECORD_PAIRS)
		put_counted(t, r->pairs, 2);
}

/* Returns where the record is, and its Size. */
static uint64_t append_record(struct volume_files *v, uint64_t key, uint32_t cookie,
			      const struct record_shape *r, uint32_t *ret_size)
{
	struct text body = { 0 }, record = { 0 };
	off_t offset = lseek(v->dat_fd, 0, SEEK_END);
	uint32_t crc = crc32c(0, r->data, r->len);

	if (r->masked_crc)
		crc = ((crc >> 15) | (crc << 17)) + UINT32_C(0xa282ead8);
	if (r->len > 0 && v->version > 1)
		put_u32(&body, (uint32_t)r->len);
	put_bytes(&body, r->data, r->len);
	if (r->len > 0 && v->version > 1)
		put_fields(&body, r);
	put_u32(&record, cookie);
	put_u64(&record, key);
	put_u32(&record, (uint32_t)body.len);
	put_bytes(&record, body.bytes, body.len);
	put_u32(&record, crc);
	if (v->version >= 3)
		put_u64(&record, r->append_at_ns);
	do
		put_u8(&record, 0);
	while (record.len % RECORD_ALIGN != 0);
	append(v->dat_fd, record.bytes, record.len);
	*ret_size = (uint32_t)body.len;
	free(body.bytes);
	free(record.bytes);
	return (uint64_t)offset;
}

void volume_files_idx_bytes(struct volume_files *v, const void *bytes, size_t len)
{
	append(v->idx_fd, bytes, len);
}

void volume_files_entry(struct volume_files *v, uint64_t key, uint64_t offset, uint32_t size)
{
	struct text t = { 0 };

	put_u64(&t, key);
	put_u32(&t, (uint32_t)(offset / RECORD_ALIGN));
	if (v->entry_bytes == 17)
		put_u8(&t, (uint8_t)(offset / RECORD_ALIGN >> 32));
	put_u32(&t, size);
	append(v->idx_fd, t.bytes, t.len);
	free(t.bytes);
}

uint64_t volume_files_put_shaped(struct volume_files *v, uint64_t key, uint32_t cookie,
				 const struct record_shape *r)
{
	uint32_t size;
	uint64_t offset = append_record(v, key, cookie, r, &size);

	volume_files_entry(v, key, offset, size);
	return offset;
}

uint64_t volume_files_put(struct volume_files *v, uint64_t key, uint32_t cookie, const void *data,
			  size_t len)
{
	return volume_files_put_shaped(v, key, cookie,
				       &(struct record_shape){ .data = data, .len = len });
}

void volume_files_delete(struct volume_files *v, uint64_t key)
{
	uint32_t size;
	uint64_t offset = append_record(v, key, 0, &(struct record_shape){ 0 }, &size);

	volume_files_entry(v, key, offset, TOMBSTONE_SIZE);
}

void write_text_file(const char *path, const char *text)
{
	int fd = create_file(path);

	append(fd, text, strlen(text));
	close(fd);
}
