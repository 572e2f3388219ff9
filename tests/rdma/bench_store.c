/* How long it takes to load a large index, what it costs in memory, and how long a look-up takes.
 *
 *	bench_store [NEEDLES [DIR]]     default: 5000000, in a scratch directory under TMPDIR */
#include <endian.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "rdma/agent/store.h"
#include "tests/support/volume_files.h"

#define NEEDLES_DEFAULT 5000000
#define VOLUME_ID 3
#define RECORD_BYTES 4144 /* of 4 KiB of data */
#define LOOKUPS 1000000
#define BATCH_ENTRIES 4096
#define ENTRY_BYTES 17

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double seconds_since(int64_t start_ns)
{
	return (double)(now_ns() - start_ns) / 1e9;
}

/* Records that are nothing but a hole, and an index of all of them. */
static void write_volume(const char *dat, const char *idx, uint64_t n)
{
	static uint8_t batch[BATCH_ENTRIES * ENTRY_BYTES];
	struct volume_files *v = volume_files_new(dat, idx, &(struct volume_shape){ 0 });
	size_t len = 0;

	for (uint64_t i = 0; i < n; i++) {
		uint64_t key = htobe64(i + 1), units = (8 + i * RECORD_BYTES) / 8;
		uint32_t low = htobe32((uint32_t)units), size = htobe32(4096 + 5);
		uint8_t *p = batch + len;

		memcpy(p, &key, sizeof(key));
		memcpy(p + 8, &low, sizeof(low));
		p[12] = (uint8_t)(units >> 32);
		memcpy(p + 13, &size, sizeof(size));
		len += ENTRY_BYTES;
		if (len == sizeof(batch)) {
			volume_files_idx_bytes(v, batch, len);
			len = 0;
		}
	}
	volume_files_idx_bytes(v, batch, len);
	if (truncate(dat, (off_t)(8 + n * RECORD_BYTES)) != 0)
		die(dat);
	/* The newest has to be there. */
	volume_files_put(v, n + 1, 1, "x", 1);
	volume_files_free(v);
}

static void look_up(struct store *s, uint64_t n)
{
	uint64_t random = 1;
	int64_t start = now_ns();

	for (unsigned i = 0; i < LOOKUPS; i++) {
		struct needle_place place;

		random = random * UINT64_C(6364136223846793005) + 1442695040888963407;
		struct fid fid = { .volume_id = VOLUME_ID, .key = (random >> 20) % n + 1 };
		if (store_find(s, &fid, false, &place) != 0)
			die("store_find");
		store_unpin(&place);
	}
	printf("look-up: %.0f ns\n", seconds_since(start) / LOOKUPS * 1e9);
}

int main(int argc, char **argv)
{
	uint64_t n = argc > 1 ? strtoull(argv[1], NULL, 10) : NEEDLES_DEFAULT;
	const char *tmp = argc > 2 ? argv[2] : getenv("TMPDIR");
	char dir[3072], dat[4096], idx[4096], vif[4096];
	struct store_stats stats;
	struct rusage usage;
	struct store *s;

	snprintf(dir, sizeof(dir), "%s/bench-store-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(dir))
		die(dir);
	snprintf(dat, sizeof(dat), "%s/%d.dat", dir, VOLUME_ID);
	snprintf(idx, sizeof(idx), "%s/%d.idx", dir, VOLUME_ID);
	snprintf(vif, sizeof(vif), "%s/%d.vif", dir, VOLUME_ID);
	write_volume(dat, idx, n);
	write_text_file(vif, "{\"version\":3,\"bytesOffset\":5}");

	const char *dirs[] = { dir };
	int64_t start = now_ns();
	int err = store_open(&(struct store_config){ .dirs = dirs, .n_dirs = 1 }, &s);
	double took = seconds_since(start);
	if (!err) {
		store_stats(s, &stats);
		getrusage(RUSAGE_SELF, &usage);
		printf("loaded %zu needles in %.2f s; %.1f bytes each; at most %ld MiB resident\n",
		       stats.needles, took, (double)stats.index_bytes / (double)stats.needles,
		       usage.ru_maxrss / 1024);
		look_up(s, n);
		store_close(s);
	}
	unlink(dat);
	unlink(idx);
	unlink(vif);
	rmdir(dir);
	return err != 0;
}
