#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cache/blockcache.h"
#include "cache/slab.h"
#include "cache/ssd.h"
#include "cache/ssd_impl.h"

#define BLOCK SSD_BLOCK_BYTES
#define SEGMENT_BLOCKS ((uint64_t)(SSD_SEGMENT_BYTES / BLOCK))
#define SEGMENTS ((uint64_t)3) /* of the smallest tier */
#define PATIENCE_MS 60000

struct fixture {
	char dir[64];
	struct slab *slab;
	struct blockcache *cache;
	struct ssd *ssd;
	struct ssd_config cfg;
	atomic_uint offs; /* how often it turned itself off */
};

static void on_off(void *arg, const char *what, int err)
{
	(void)what;
	assert_true(err < 0);
	atomic_fetch_add(&((struct fixture *)arg)->offs, 1);
}

static void tier_open(struct fixture *f)
{
	assert_int_equal(ssd_open(&f->cfg, &f->ssd), 0);
}

/* What was offered is on the disk afterwards. */
static void tier_close(struct fixture *f)
{
	ssd_free(f->ssd);
	f->ssd = NULL;
}

static void tier_reopen(struct fixture *f)
{
	tier_close(f);
	tier_open(f);
}

static int setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));

	strcpy(f->dir, "/tmp/kelp-ssd-XXXXXX");
	assert_non_null(mkdtemp(f->dir));
	assert_int_equal(slab_new(SLAB_BYTES_MIN, &f->slab), 0);
	assert_int_equal(blockcache_new(f->slab, &f->cache), 0);
	f->cfg = (struct ssd_config){
		.dir = f->dir,
		.bytes = SSD_BYTES_MIN,
		.cluster = { { 1, 2 } },
		.queue_bytes = SLAB_BYTES_MIN / 2,
		.slab = f->slab,
		.cache = f->cache,
		.on_off = on_off,
		.arg = f,
	};
	tier_open(f);
	*state = f;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static void remove_dir(const struct fixture *f)
{
	nftw(f->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static int teardown(void **state)
{
	struct fixture *f = *state;

	ssd_free(f->ssd);
	blockcache_free(f->cache); /* no pin was left behind, or this fails */
	slab_free(f->slab);
	remove_dir(f);
	free(f);
	return 0;
}

static struct ssd_stats stats_of(struct fixture *f)
{
	struct ssd_stats st;

	ssd_stats(f->ssd, &st);
	return st;
}

static struct ssd_id id_of(uint64_t file)
{
	return (struct ssd_id){ { file, ~file } };
}

/* What the eight bytes that have offset `at` of a file among them are. */
static uint64_t word_at(uint64_t file, uint64_t at)
{
	return (file * 1000003 + at / 8 + 1) * UINT64_C(0x9e3779b97f4a7c15);
}

static void make_bytes(uint64_t file, uint64_t offset, uint8_t *p, size_t n)
{
	while (n > 0) {
		uint64_t word = word_at(file, offset);
		size_t skip = offset % 8, here = min_u64(n, 8 - skip);

		memcpy(p, (const uint8_t *)&word + skip, here);
		p += here;
		offset += here;
		n -= here;
	}
}

static bool bytes_are_right(uint64_t file, uint64_t offset, const uint8_t *p, size_t n)
{
	while (n > 0) {
		uint64_t word = word_at(file, offset);
		size_t skip = offset % 8, here = min_u64(n, 8 - skip);

		if (memcmp(p, (const uint8_t *)&word + skip, here) != 0)
			return false;
		p += here;
		offset += here;
		n -= here;
	}
	return true;
}

/* As a fill does it: a block of the cache, offered before it is ready. */
static void offer(struct fixture *f, uint64_t file, uint64_t offset, size_t bytes)
{
	struct ssd_id id = id_of(file);
	struct block_key key = { .id = { file, ~file }, .index = (uint32_t)(offset / BLOCK) };
	struct block *b;

	/* the slab is small: the writer may have all of it for a while */
	for (int64_t end = now_ms() + PATIENCE_MS; now_ms() < end; usleep(1000)) {
		enum block_outcome o = blockcache_get(f->cache, &key, bytes, false, &b);

		if (o == BLOCK_BYPASS)
			continue;
		if (o == BLOCK_FILL) {
			memset(b->data, 0xaa, b->cap);
			make_bytes(file, offset, b->data, bytes);
			ssd_offer(f->ssd, f->cache, b, &id, offset, bytes);
			block_filled(f->cache, b, 0,
				     -EIO); /* not to be found: filled anew next time */
		}
		block_unpin(f->cache, b);
		return;
	}
	fail_msg("no memory");
}

static uint64_t settled(struct fixture *f)
{
	LOCK_SCOPE(&f->ssd->lock);
	return f->ssd->queue_bytes;
}

static void wait_for_writer(struct fixture *f)
{
	for (int64_t end = now_ms() + PATIENCE_MS; settled(f) && now_ms() < end; usleep(500))
		;
	assert_int_equal(settled(f), 0);
}

/* Offers n blocks of a file, each when the writer has the one before. */
static void offer_blocks(struct fixture *f, uint64_t file, uint64_t first, uint64_t n)
{
	for (uint64_t i = first; i < first + n; i++) {
		offer(f, file, i * BLOCK, BLOCK);
		if (i % 16 == 15)
			wait_for_writer(f);
	}
	wait_for_writer(f);
}

/* Reads up to len bytes, and checks what comes. */
static size_t read_some(struct fixture *f, uint64_t file, uint64_t offset, size_t len)
{
	struct ssd_id id = id_of(file);
	uint8_t *p = aligned_alloc(SSD_PAGE_BYTES, (len + SSD_PAGE_BYTES) & ~(SSD_PAGE_BYTES - 1));
	struct iovec iov = { .iov_base = p, .iov_len = len };
	size_t n = ssd_read(f->ssd, &id, offset, &iov, 1);

	assert_true(n <= len);
	assert_true(bytes_are_right(file, offset, p, n));
	free(p);
	return n;
}

static uint64_t blocks_there(struct fixture *f, uint64_t file, uint64_t first, uint64_t n)
{
	uint64_t there = 0;

	for (uint64_t i = first; i < first + n; i++)
		there += read_some(f, file, i * BLOCK, BLOCK) == BLOCK;
	return there;
}

/* The path of the file with that ending. */
static void path_of(const struct fixture *f, const char *ending, char *ret, size_t bytes)
{
	DIR *d = opendir(f->dir);
	struct dirent *e;
	bool found = false;

	assert_non_null(d);
	while ((e = readdir(d))) {
		size_t n = strlen(e->d_name), m = strlen(ending);

		if (n < m || strcmp(e->d_name + n - m, ending) != 0)
			continue;
		assert_false(found);
		snprintf(ret, bytes, "%s/%s", f->dir, e->d_name);
		found = true;
	}
	closedir(d);
	assert_true(found);
}

static int open_file(const struct fixture *f, const char *ending)
{
	char path[512];

	path_of(f, ending, path, sizeof(path));
	int fd = open(path, O_RDWR | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void flip(const struct fixture *f, const char *ending, off_t at)
{
	int fd = open_file(f, ending);
	uint8_t byte = 0;

	assert_int_equal(pread(fd, &byte, 1, at), 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(fd, &byte, 1, at), 1);
	close(fd);
}

static uint64_t disk_bytes(const struct fixture *f)
{
	static const char *const endings[] = { ".index", ".data" };
	uint64_t bytes = 0;

	for (size_t i = 0; i < ARRAY_LEN(endings); i++) {
		struct stat st;
		int fd = open_file(f, endings[i]);

		assert_int_equal(fstat(fd, &st), 0);
		bytes += (uint64_t)st.st_blocks * 512;
		assert_true((uint64_t)st.st_size <= f->cfg.bytes);
		close(fd);
	}
	return bytes;
}

/* ---- What is there. */

static void what_was_offered_is_read_back(void **state)
{
	struct fixture *f = *state;

	assert_int_equal(read_some(f, 1, 0, BLOCK), 0);
	offer(f, 1, 0, BLOCK);
	wait_for_writer(f);
	assert_int_equal(read_some(f, 1, 0, BLOCK), BLOCK);
	assert_int_equal(stats_of(f).hits, 1);
	assert_int_equal(read_some(f, 2, 0, BLOCK), 0);
}

static void it_is_still_there_after_a_restart(void **state)
{
	struct fixture *f = *state;

	offer_blocks(f, 1, 0, 10);
	tier_reopen(f);
	assert_int_equal(stats_of(f).blocks, 10);
	assert_int_equal(read_some(f, 1, 0, 10 * BLOCK), 10 * BLOCK);
}

static void restarts_go_on_in_the_same_segment(void **state)
{
	struct fixture *f = *state;

	for (uint64_t i = 0; i < 6; i++) {
		offer(f, 1, i * BLOCK, i % 2 ? BLOCK : 5000);
		tier_reopen(f);
	}
	assert_int_equal(stats_of(f).segments, 1);
	assert_int_equal(stats_of(f).blocks, 6);
	for (uint64_t i = 0; i < 6; i++)
		assert_int_equal(read_some(f, 1, i * BLOCK, 5000), 5000);
}

static void a_read_ends_where_something_is_missing(void **state)
{
	struct fixture *f = *state;

	offer(f, 1, 0, BLOCK);
	offer(f, 1, 2 * BLOCK, 777);
	wait_for_writer(f);
	assert_int_equal(read_some(f, 1, 100, 3 * BLOCK), BLOCK - 100);
	assert_int_equal(read_some(f, 1, 2 * BLOCK, 777), 777);
	assert_int_equal(read_some(f, 1, 2 * BLOCK + 700, 77), 77);
	/* it may go on, for all that is known here */
	assert_int_equal(read_some(f, 1, 2 * BLOCK, 778), 0);
}

static void a_longer_block_replaces_a_shorter_one(void **state)
{
	struct fixture *f = *state;

	offer(f, 1, 0, 777);
	wait_for_writer(f);
	offer(f, 1, 0, 5000);
	wait_for_writer(f);
	offer(f, 1, 0, 778);
	wait_for_writer(f);
	assert_int_equal(stats_of(f).blocks, 1);
	assert_int_equal(read_some(f, 1, 0, 5000), 5000);
	tier_reopen(f);
	assert_int_equal(read_some(f, 1, 0, 5000), 5000);
}

/* Any range, in pieces of any size and alignment. */
static void read_scattered(struct fixture *f, uint64_t file, uint64_t size, unsigned seed)
{
	enum { PIECES = 9 };
	uint64_t offset = (uint64_t)rand_r(&seed) % size;
	size_t len = 1 + (size_t)rand_r(&seed) % (size - offset), at = 0;
	uint8_t *p = malloc(len + (size_t)PIECES * 4096);
	struct iovec iov[PIECES];
	size_t left = len, n = 0;

	if (seed & 1)
		offset &= ~(uint64_t)(SSD_UNIT_BYTES - 1);
	for (; left > 0 && n < PIECES; n++) {
		size_t here = n + 1 == PIECES ? left : min_u64(left, (size_t)rand_r(&seed) % len);

		iov[n] = (struct iovec){ .iov_base = p + at, .iov_len = here };
		at += here + (size_t)rand_r(&seed) % 4096;
		left -= here;
	}
	struct ssd_id id = id_of(file);
	assert_int_equal(ssd_read(f->ssd, &id, offset, iov, n), len);
	for (size_t i = 0; i < n; offset += iov[i++].iov_len)
		assert_true(bytes_are_right(file, offset, iov[i].iov_base, iov[i].iov_len));
	free(p);
}

static void check_scattered_reads(struct fixture *f)
{
	offer_blocks(f, 1, 0, 20);
	offer(f, 1, 20 * BLOCK, 12345);
	wait_for_writer(f);
	for (unsigned i = 0; i < 300; i++)
		read_scattered(f, 1, 20 * BLOCK + 12345, i);
}

static void any_range_comes_in_any_pieces(void **state)
{
	check_scattered_reads(*state);
}

static void it_works_without_io_uring(void **state)
{
	struct fixture *f = *state;

	f->cfg.no_uring = true;
	tier_reopen(f);
	check_scattered_reads(f);
}

static size_t slab_used(struct fixture *f)
{
	struct slab_stats st;

	slab_stats(f->slab, &st);
	return st.used_bytes;
}

/* Where the lane has its memory, once there is one. */
static bool lane_is_in_slab(struct fixture *f)
{
	LOCK_SCOPE(&f->ssd->lock);
	assert_non_null(f->ssd->free_lanes);
	return f->ssd->free_lanes->in_slab;
}

static void what_is_not_whole_units_is_read_in_the_slab(void **state)
{
	struct fixture *f = *state;

	offer_blocks(f, 1, 0, 4);
	size_t before = slab_used(f);
	assert_int_equal(read_some(f, 1, 77, 3 * BLOCK), 3 * BLOCK);
	assert_true(lane_is_in_slab(f));
	assert_true(slab_used(f) >= before + SSD_LANE_SCRATCH * BLOCK);
}

static void with_all_of_the_slab_in_use_reads_still_work(void **state)
{
	struct fixture *f = *state;
	struct slab_buf all[SLAB_BYTES_MIN / BLOCK];
	size_t n = 0;

	offer_blocks(f, 1, 0, 4);
	while (n < ARRAY_LEN(all) && blockcache_lend(f->cache, BLOCK, &all[n]) == 0)
		n++;
	assert_int_equal(read_some(f, 1, 77, 3 * BLOCK), 3 * BLOCK);
	assert_false(lane_is_in_slab(f));
	while (n > 0)
		slab_release(f->slab, all[--n]);
}

static void all_lanes_together_take_a_small_part_of_the_slab(void **state)
{
	struct fixture *f = *state;

	offer_blocks(f, 1, 0, 1);
	f->ssd->n_slab_lanes = f->ssd->slab_lanes_max;
	assert_int_equal((size_t)f->ssd->slab_lanes_max * SSD_LANE_SCRATCH * BLOCK,
			 SLAB_BYTES_MIN / SSD_LANES_SHARE);
	assert_int_equal(read_some(f, 1, 77, 100), 100);
	assert_false(lane_is_in_slab(f));
}

static void small_blocks_are_packed(void **state)
{
	struct fixture *f = *state;

	for (uint64_t i = 0; i < 800; i++) {
		offer(f, i, 0, 4000);
		if (i % 16 == 15)
			wait_for_writer(f);
	}
	tier_reopen(f);
	assert_int_equal(stats_of(f).segments, 1);
	for (uint64_t i = 0; i < 800; i++)
		assert_int_equal(read_some(f, i, 0, 4000), 4000);
}

/* Memory behind a block may hold what must not be on a disk. */
static void nothing_but_the_block_is_written(void **state)
{
	struct fixture *f = *state;
	uint8_t rest[3192];

	offer(f, 1, 0, 5000);
	tier_close(f);
	int fd = open_file(f, ".data");
	assert_int_equal(pread(fd, rest, sizeof(rest), 5000), sizeof(rest));
	for (size_t i = 0; i < sizeof(rest); i++)
		assert_int_equal(rest[i], 0);
	close(fd);
}

/* ---- What is wrong. */

static void a_wrong_byte_is_caught(void **state)
{
	struct fixture *f = *state;
	uint64_t caught = 0;

	offer(f, 1, 0, 5000);
	for (off_t at = 0; at < 5000; at += 97) {
		tier_close(f);
		flip(f, ".data", at);
		tier_open(f);
		assert_int_equal(read_some(f, 1, 0, 5000), 0);
		assert_int_equal(read_some(f, 1, 0, 10), 0);
		assert_int_equal(stats_of(f).blocks, 0);
		caught += stats_of(f).corrupt;
		tier_close(f);
		flip(f, ".data", at);
		tier_open(f);
		assert_int_equal(read_some(f, 1, 0, 5000), 5000);
	}
	assert_int_equal(caught, (5000 + 96) / 97);
	assert_int_equal(atomic_load(&f->offs), 0);
}

static void only_the_wrong_block_is_lost(void **state)
{
	struct fixture *f = *state;

	offer_blocks(f, 1, 0, 4);
	flip(f, ".data", (off_t)(2 * BLOCK + 70000));
	assert_int_equal(read_some(f, 1, 0, 4 * BLOCK), 2 * BLOCK);
	assert_int_equal(read_some(f, 1, 3 * BLOCK, BLOCK), BLOCK);
	offer(f, 1, 2 * BLOCK, BLOCK);
	wait_for_writer(f);
	assert_int_equal(read_some(f, 1, 0, 4 * BLOCK), 4 * BLOCK);
}

/* Units that nobody asks for are not read, and not looked at. */
static void a_wrong_byte_elsewhere_does_not_matter(void **state)
{
	struct fixture *f = *state;

	offer(f, 1, 0, BLOCK);
	wait_for_writer(f);
	flip(f, ".data", 5);
	assert_int_equal(read_some(f, 1, SSD_UNIT_BYTES, 100), 100);
	assert_int_equal(read_some(f, 1, SSD_UNIT_BYTES - 1, 2), 0);
}

static void bytes_of_another_block_are_caught(void **state)
{
	struct fixture *f = *state;
	uint8_t *p = malloc(BLOCK);

	offer_blocks(f, 1, 0, 2);
	int fd = open_file(f, ".data");
	assert_int_equal(pread(fd, p, BLOCK, BLOCK), BLOCK);
	assert_int_equal(pwrite(fd, p, BLOCK, 0), BLOCK);
	close(fd);
	assert_int_equal(read_some(f, 1, 0, BLOCK), 0);
	free(p);
}

/* Whatever byte of the index is wrong: a block is there and right, or it is not there. */
static void a_wrong_index_loses_blocks_and_no_more(void **state)
{
	struct fixture *f = *state;
	const off_t last = (off_t)(SSD_SUPER_BYTES + 4 * SSD_RECORD_BYTES);

	for (off_t at = 0; at < last; at += at < 64 || at >= (off_t)SSD_SUPER_BYTES ? 3 : 500) {
		offer_blocks(f, 1, 0, 3);
		tier_close(f);
		flip(f, ".index", at);
		tier_open(f);
		if (at < 44 || (at >= (off_t)SSD_SUPER_BYTES &&
				at < (off_t)(SSD_SUPER_BYTES + 2 * SSD_RECORD_BYTES)))
			assert_int_equal(stats_of(f).blocks, 0);
		blocks_there(f, 1, 0, 3);
		assert_int_equal(stats_of(f).corrupt, 0);
		offer_blocks(f, 2, 0, 3);
		assert_int_equal(blocks_there(f, 2, 0, 3), 3);
	}
}

static void a_torn_index_loses_its_end(void **state)
{
	struct fixture *f = *state;

	offer_blocks(f, 1, 0, 5);
	tier_close(f);
	int fd = open_file(f, ".index");
	assert_int_equal(ftruncate(fd, (off_t)(SSD_SUPER_BYTES + 4 * SSD_RECORD_BYTES - 1)), 0);
	close(fd);
	tier_open(f);
	assert_int_equal(stats_of(f).blocks, 2);
	assert_int_equal(read_some(f, 1, 0, 5 * BLOCK), 2 * BLOCK);
	offer_blocks(f, 1, 2, 3);
	tier_reopen(f);
	assert_int_equal(read_some(f, 1, 0, 5 * BLOCK), 5 * BLOCK);
}

static void cut_data_is_a_miss(void **state)
{
	struct fixture *f = *state;

	offer_blocks(f, 1, 0, 5);
	int fd = open_file(f, ".data");
	assert_int_equal(ftruncate(fd, (off_t)(3 * BLOCK)), 0);
	close(fd);
	assert_int_equal(read_some(f, 1, 0, 5 * BLOCK), 3 * BLOCK);
	assert_int_equal(atomic_load(&f->offs), 0);
}

static void another_version_starts_empty(void **state)
{
	struct fixture *f = *state;
	uint8_t version = SSD_VERSION + 1;

	offer(f, 1, 0, BLOCK);
	tier_close(f);
	int fd = open_file(f, ".index");
	assert_int_equal(pwrite(fd, &version, 1, 8), 1);
	close(fd);
	tier_open(f);
	assert_int_equal(stats_of(f).blocks, 0);
	assert_int_equal(read_some(f, 1, 0, BLOCK), 0);
	offer(f, 1, 0, BLOCK);
	tier_reopen(f);
	assert_int_equal(read_some(f, 1, 0, BLOCK), BLOCK);
}

static void another_cluster_shares_nothing(void **state)
{
	struct fixture *f = *state;

	offer(f, 1, 0, BLOCK);
	tier_close(f);
	f->cfg.cluster.word[1]++;
	tier_open(f);
	assert_int_equal(read_some(f, 1, 0, BLOCK), 0);
	tier_close(f);
	f->cfg.cluster.word[1]--;
	tier_open(f);
	assert_int_equal(read_some(f, 1, 0, BLOCK), BLOCK);
}

/* Writes until it is killed. */
static void write_for_ever(struct fixture *f)
{
	tier_open(f);
	for (uint64_t i = 0;; i++)
		offer(f, 1 + i / 500, i % 500 * BLOCK, BLOCK);
}

static void a_killed_writer_leaves_no_wrong_byte(void **state)
{
	struct fixture *f = *state;
	int64_t end = now_ms() + PATIENCE_MS;
	uint64_t found = 0;

	tier_close(f);
	/* a busy machine may let none of the first ones come as far as writing */
	for (unsigned round = 0; round < 5 || (found == 0 && now_ms() < end); round++) {
		pid_t child = fork();

		if (child == 0)
			write_for_ever(f);
		usleep(60000 + round * 17000);
		assert_int_equal(kill(child, SIGKILL), 0);
		assert_int_equal(waitpid(child, NULL, 0), child);
		tier_open(f);
		for (uint64_t i = 0; i < 600; i++)
			found += read_some(f, 1 + i / 500, i % 500 * BLOCK, BLOCK);
		assert_int_equal(stats_of(f).corrupt, 0);
		tier_close(f);
	}
	assert_true(found > 0);
	tier_open(f);
}

/* ---- Room. */

static void the_size_is_obeyed(void **state)
{
	struct fixture *f = *state;

	for (uint64_t round = 0; round < 4; round++)
		offer_blocks(f, 1, 0, (SEGMENTS + 1) * SEGMENT_BLOCKS);
	assert_int_equal(stats_of(f).segments, SEGMENTS);
	assert_true(stats_of(f).blocks <= SEGMENTS * SEGMENT_BLOCKS);
	assert_true(stats_of(f).evictions > 0);
	assert_true(disk_bytes(f) <= f->cfg.bytes);
	blocks_there(f, 1, 0, (SEGMENTS + 1) * SEGMENT_BLOCKS);
}

static void a_smaller_size_takes_effect(void **state)
{
	struct fixture *f = *state;

	tier_close(f);
	f->cfg.bytes = 2 * SSD_BYTES_MIN;
	tier_open(f);
	offer_blocks(f, 1, 0, 6 * SEGMENT_BLOCKS);
	tier_close(f);
	assert_true(disk_bytes(f) > SSD_BYTES_MIN);
	f->cfg.bytes = SSD_BYTES_MIN;
	tier_open(f);
	assert_true(disk_bytes(f) <= SSD_BYTES_MIN);
	assert_int_equal(blocks_there(f, 1, 0, SEGMENT_BLOCKS), SEGMENT_BLOCKS);
}

static void one_pass_over_much_displaces_nothing(void **state)
{
	struct fixture *f = *state;
	const uint64_t all = SEGMENTS * SEGMENT_BLOCKS;

	offer_blocks(f, 1, 0, all);
	offer_blocks(f, 2, 0, 2 * all);
	assert_int_equal(blocks_there(f, 1, 0, all), all);
	assert_int_equal(stats_of(f).evictions, 0);
	assert_true(stats_of(f).refused > 0);
}

static void what_comes_again_displaces_what_nobody_reads(void **state)
{
	struct fixture *f = *state;
	const uint64_t all = SEGMENTS * SEGMENT_BLOCKS;

	offer_blocks(f, 1, 0, all);
	for (uint64_t round = 0; round < 4; round++)
		offer_blocks(f, 2, 0, SEGMENT_BLOCKS);
	assert_true(blocks_there(f, 2, 0, SEGMENT_BLOCKS) > SEGMENT_BLOCKS / 2);
}

static void a_full_disk_only_stops_the_writing(void **state)
{
	struct fixture *f = *state;
	struct rlimit old, tight = { SSD_SEGMENT_BYTES * 3 / 2, 0 };

	offer_blocks(f, 1, 0, 8);
	assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
	tight.rlim_max = old.rlim_max;
	signal(SIGXFSZ, SIG_IGN);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &tight), 0);
	offer_blocks(f, 1, 8, SEGMENT_BLOCKS + 64);
	assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
	assert_false(stats_of(f).off);
	assert_int_equal(stats_of(f).segments, 1);
	assert_int_equal(blocks_there(f, 1, 0, SEGMENT_BLOCKS), SEGMENT_BLOCKS);
}

static void a_full_queue_drops(void **state)
{
	struct fixture *f = *state;
	const uint64_t n = 200;

	f->cfg.queue_bytes = 1;
	tier_reopen(f);
	for (uint64_t i = 0; i < n; i++)
		offer(f, 1, i * BLOCK, BLOCK);
	wait_for_writer(f);
	struct ssd_stats st = stats_of(f);
	assert_int_equal(st.blocks + st.dropped, n);
	assert_true(st.blocks > 0);
}

/* ---- The directory. */

static void two_on_one_directory_do_not_meet(void **state)
{
	struct fixture *f = *state, other = *f;

	tier_open(&other);
	offer_blocks(f, 1, 0, 4);
	offer_blocks(&other, 2, 0, 4);
	assert_int_equal(blocks_there(f, 1, 0, 4), 4);
	assert_int_equal(blocks_there(&other, 2, 0, 4), 4);
	assert_int_equal(blocks_there(f, 2, 0, 4), 0);
	tier_close(&other);
	tier_reopen(f);
	assert_int_equal(blocks_there(f, 1, 0, 4), 4);
}

static void too_many_on_one_directory_are_refused(void **state)
{
	struct fixture *f = *state;
	struct ssd *others[SSD_SLOTS_MAX - 1], *one_more;

	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		assert_int_equal(ssd_open(&f->cfg, &others[i]), 0);
	assert_int_equal(ssd_open(&f->cfg, &one_more), -EUSERS);
	for (size_t i = 0; i < ARRAY_LEN(others); i++)
		ssd_free(others[i]);
}

static void a_removed_directory_turns_it_off(void **state)
{
	struct fixture *f = *state;

	offer_blocks(f, 1, 0, 8);
	remove_dir(f);
	offer_blocks(f, 1, 8, SEGMENT_BLOCKS);
	assert_true(stats_of(f).off);
	assert_int_equal(atomic_load(&f->offs), 1);
	assert_int_equal(read_some(f, 1, 0, BLOCK), 0);
	offer(f, 1, 0, BLOCK);
}

/* Reading a directory is an error, as good as any. */
static void a_read_error_turns_it_off_once(void **state)
{
	struct fixture *f = *state;

	offer_blocks(f, 1, 0, 8);
	int keep = dup(f->ssd->dir.data_fd);
	assert_true(dup2(f->ssd->dir.fd, f->ssd->dir.data_fd) >= 0);
	assert_int_equal(read_some(f, 1, 0, 8 * BLOCK), 0);
	assert_int_equal(read_some(f, 1, 0, BLOCK), 0);
	assert_true(stats_of(f).off);
	assert_int_equal(atomic_load(&f->offs), 1);
	close(keep);
}

static void a_write_error_turns_it_off(void **state)
{
	struct fixture *f = *state;

	offer_blocks(f, 1, 0, 8);
	assert_true(dup2(f->ssd->dir.fd, f->ssd->dir.data_fd) >= 0);
	offer_blocks(f, 1, 8, 8);
	assert_true(stats_of(f).off);
	assert_int_equal(atomic_load(&f->offs), 1);
}

static void files_are_for_their_owner_only(void **state)
{
	struct fixture *f = *state;
	struct stat st;
	int fd = open_file(f, ".data");

	assert_int_equal(fstat(fd, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	close(fd);
}

static void a_directory_open_to_others_is_refused(void **state)
{
	struct fixture *f = *state;

	tier_close(f);
	assert_int_equal(chmod(f->dir, 0770), 0);
	assert_int_equal(ssd_open(&f->cfg, &f->ssd), -EPERM);
	assert_int_equal(chmod(f->dir, 0755), 0);
	tier_open(f);
}

static void symbolic_links_are_not_followed(void **state)
{
	struct fixture *f = *state;
	char path[512], target[512], link[80];

	tier_close(f);
	path_of(f, ".data", path, sizeof(path));
	snprintf(target, sizeof(target), "%s/elsewhere", f->dir);
	assert_int_equal(rename(path, target), 0);
	assert_int_equal(symlink(target, path), 0);
	assert_int_equal(ssd_open(&f->cfg, &f->ssd), -ELOOP);
	snprintf(link, sizeof(link), "%s-link", f->dir);
	assert_int_equal(symlink(f->dir, link), 0);
	f->cfg.dir = link;
	int err = ssd_open(&f->cfg, &f->ssd);
	assert_true(err == -ELOOP || err == -ENOTDIR);
	unlink(link);
}

static void a_missing_directory_is_made(void **state)
{
	struct fixture *f = *state;

	tier_close(f);
	remove_dir(f);
	tier_open(f);
	offer(f, 1, 0, BLOCK);
	tier_reopen(f);
	assert_int_equal(read_some(f, 1, 0, BLOCK), BLOCK);
}

/* ---- All at once. */

struct crowd {
	struct fixture *f;
	atomic_bool stop;
	atomic_uint_fast64_t found;
};

static void *read_at_random(void *arg)
{
	struct crowd *c = arg;
	unsigned seed = (unsigned)(uintptr_t)&seed;

	while (!atomic_load(&c->stop)) {
		uint64_t block = (uint64_t)rand_r(&seed) % ((SEGMENTS + 1) * SEGMENT_BLOCKS);

		/* so few of them that no segment is kept for it */
		block &= ~UINT64_C(15);
		atomic_fetch_add(&c->found, read_some(c->f, 1, block * BLOCK + block, BLOCK));
		usleep(200);
	}
	return NULL;
}

static void readers_never_see_what_replaces_their_blocks(void **state)
{
	struct crowd c = { .f = *state };
	pthread_t threads[3];

	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		assert_int_equal(pthread_create(&threads[i], NULL, read_at_random, &c), 0);
	/* a segment that is being read from is passed over, and there are but three */
	for (int64_t end = now_ms() + PATIENCE_MS; now_ms() < end && stats_of(c.f).evictions < 3;)
		offer_blocks(c.f, 1, 0, (SEGMENTS + 1) * SEGMENT_BLOCKS);
	atomic_store(&c.stop, true);
	for (size_t i = 0; i < ARRAY_LEN(threads); i++)
		pthread_join(threads[i], NULL);
	assert_true(atomic_load(&c.found) > 0);
	assert_int_equal(stats_of(c.f).corrupt, 0);
	assert_true(stats_of(c.f).evictions > 0);
}

#define T(test) cmocka_unit_test_setup_teardown(test, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		T(what_was_offered_is_read_back),
		T(it_is_still_there_after_a_restart),
		T(restarts_go_on_in_the_same_segment),
		T(a_read_ends_where_something_is_missing),
		T(a_longer_block_replaces_a_shorter_one),
		T(any_range_comes_in_any_pieces),
		T(it_works_without_io_uring),
		T(what_is_not_whole_units_is_read_in_the_slab),
		T(with_all_of_the_slab_in_use_reads_still_work),
		T(all_lanes_together_take_a_small_part_of_the_slab),
		T(small_blocks_are_packed),
		T(nothing_but_the_block_is_written),
		T(a_wrong_byte_is_caught),
		T(only_the_wrong_block_is_lost),
		T(a_wrong_byte_elsewhere_does_not_matter),
		T(bytes_of_another_block_are_caught),
		T(a_wrong_index_loses_blocks_and_no_more),
		T(a_torn_index_loses_its_end),
		T(cut_data_is_a_miss),
		T(another_version_starts_empty),
		T(another_cluster_shares_nothing),
		T(a_killed_writer_leaves_no_wrong_byte),
		T(the_size_is_obeyed),
		T(a_smaller_size_takes_effect),
		T(one_pass_over_much_displaces_nothing),
		T(what_comes_again_displaces_what_nobody_reads),
		T(a_full_disk_only_stops_the_writing),
		T(a_full_queue_drops),
		T(two_on_one_directory_do_not_meet),
		T(too_many_on_one_directory_are_refused),
		T(a_removed_directory_turns_it_off),
		T(a_read_error_turns_it_off_once),
		T(a_write_error_turns_it_off),
		T(files_are_for_their_owner_only),
		T(a_directory_open_to_others_is_refused),
		T(symbolic_links_are_not_followed),
		T(a_missing_directory_is_made),
		T(readers_never_see_what_replaces_their_blocks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
