/* Any bytes as an .idx beside a small .dat, the first part loaded, the rest appended: whatever is
 * found lies within the .dat. The first byte of the input says how wide the entries are, and whether
 * a .vif says so too; the second one where the cut is, in sixteens. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "rdma/agent/volume.h"
#include "rdma/agent/volume_format.h"

#define DAT_BYTES 512
#define INPUT_BYTES_MAX 4096

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char dir[64];

static void remove_files(void)
{
	static const char *const names[] = { "3.dat", "3.idx", "3.vif" };
	char path[PATH_MAX];

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	rmdir(dir);
}

static void write_file(const char *name, int flags, const void *bytes, size_t len)
{
	char path[PATH_MAX];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | flags, 0600);
	if (fd < 0 || write(fd, bytes, len) != (ssize_t)len)
		abort();
	close(fd);
}

/* Needle 1 is there, of size 5, at 8; the rest is zeros. */
static void write_dat(void)
{
	static const uint8_t dat[DAT_BYTES] = { [0] = 3, [8 + 11] = 1, [8 + 15] = 5 };

	write_file("3.dat", O_TRUNC, dat, sizeof(dat));
}

static void make_dir(void)
{
	if (dir[0])
		return;
	snprintf(dir, sizeof(dir), "/tmp/kelp-fuzz-idx-XXXXXX");
	if (!mkdtemp(dir))
		abort();
	atexit(remove_files);
}

static void look_up(struct volume *v, uint64_t key)
{
	struct needle_place p;

	int err = volume_find(v, key, true, &p);
	if (err) {
		if (err != -ENOENT && err != -EIO && err != -ESTALE)
			abort();
		return;
	}
	if (p.record_offset < SUPERBLOCK_BYTES || p.record_offset % 8 != 0 ||
	    p.record_offset + record_bytes(p.version, p.record_size) > DAT_BYTES)
		abort();
	volume_unref(p.volume);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct volume_names names = { .dir = dir, .idx_dir = dir, .stem = "3" };
	struct volume *v;

	if (size < 2 || size > INPUT_BYTES_MAX)
		return 0;
	make_dir();
	unsigned width = data[0] & 1 ? 17 : 16;
	const char *vif = data[0] & 2
				  ? (width == 17 ? "{\"bytesOffset\":5}" : "{\"bytesOffset\":4}")
				  : "{}";
	size_t cut = (size_t)data[1] * 16;
	data += 2;
	size -= 2;
	if (cut > size)
		cut = size;
	write_dat();
	write_file("3.vif", O_TRUNC, vif, strlen(vif));
	write_file("3.idx", O_TRUNC, data, cut);
	if (volume_load(&names, &v) != 0)
		return 0;
	write_file("3.idx", O_APPEND, data + cut, size - cut);
	for (size_t at = 0; at + 8 <= size; at += width)
		look_up(v, be64_at(data + at));
	look_up(v, 1);
	volume_unref(v);
	return 0;
}
