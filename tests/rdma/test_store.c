/* The store over volumes that the tests write themselves: loading, following, refusing. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "rdma/agent/store.h"
#include "tests/support/volume_files.h"

#define COOKIE 0xc00c1e00
/* The follower looks once a second when nothing tells it to. */
#define FOLLOW_MS 30000
#define VIF_5 "{\"version\":3,\"bytesOffset\":5}"
#define VIF_TIERED "{\"files\":[{\"backendType\":\"s3\",\"key\":\"k\"}],\"bytesOffset\":5}"

struct world {
	char dir[64]; /* holds a, b and i: two data directories and one for indices */
	char *paths[8]; /* of path() */
	unsigned n_paths;
	struct store *store;
};

static int make(void **state)
{
	struct world *w = calloc(1, sizeof(*w));

	snprintf(w->dir, sizeof(w->dir), "/tmp/kelp-store-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	*state = w;
	return 0;
}

static int remove_one(const char *path, const struct stat *st, int kind, struct FTW *ftw)
{
	(void)st;
	(void)kind;
	(void)ftw;
	return remove(path);
}

static int drop(void **state)
{
	struct world *w = *state;

	store_close(w->store);
	nftw(w->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	for (size_t i = 0; i < ARRAY_LEN(w->paths); i++)
		free(w->paths[i]);
	free(w);
	return 0;
}

/* Of a name in the world; good for a few more calls. */
static const char *path(struct world *w, const char *name)
{
	char **p = &w->paths[w->n_paths++ % ARRAY_LEN(w->paths)];

	free(*p);
	assert_true(asprintf(p, "%s/%s", w->dir, name) > 0);
	return *p;
}

static void make_dirs(struct world *w)
{
	mkdir(path(w, "a"), 0700);
	mkdir(path(w, "b"), 0700);
	mkdir(path(w, "i"), 0700);
}

static struct volume_files *volume(struct world *w, const char *dat, const char *idx,
				   const struct volume_shape *shape)
{
	static const struct volume_shape usual = { 0 };

	make_dirs(w);
	return volume_files_new(path(w, dat), path(w, idx), shape ? shape : &usual);
}

/* Volume 3 with needle 1, "one". */
static struct volume_files *volume_3(struct world *w)
{
	struct volume_files *v = volume(w, "a/3.dat", "a/3.idx", NULL);

	volume_files_put(v, 1, COOKIE, "one", 3);
	return v;
}

static void open_store(struct world *w, bool with_idx_dir)
{
	const char *dirs[] = { path(w, "a"), path(w, "b") };
	const struct store_config cfg = { .dirs = dirs,
					  .n_dirs = 2,
					  .idx_dir = with_idx_dir ? path(w, "i") : NULL };

	assert_int_equal(store_open(&cfg, &w->store), 0);
}

static int find_in(struct world *w, uint32_t volume_id, uint64_t key, bool deleted,
		   struct needle_place *ret)
{
	const struct fid fid = { .volume_id = volume_id, .key = key, .cookie = COOKIE };

	return store_find(w->store, &fid, deleted, ret);
}

static int find(struct world *w, uint64_t key)
{
	struct needle_place p;
	int err = find_in(w, 3, key, false, &p);

	if (!err)
		store_unpin(&p);
	return err;
}

static void expect_at(const struct needle_place *p, uint32_t volume_id, uint64_t key,
		      const char *data)
{
	const struct fid fid = { .volume_id = volume_id, .key = key, .cookie = COOKIE };
	struct needle_info info;
	char buf[64];

	assert_int_equal(store_read_info(p, &fid, &info), 0);
	assert_int_equal(info.data_bytes, strlen(data));
	assert_int_equal(pread(p->fd, buf, info.data_bytes, (off_t)info.data_offset),
			 info.data_bytes);
	assert_memory_equal(buf, data, info.data_bytes);
}

static void expect_in(struct world *w, uint32_t volume_id, uint64_t key, bool deleted,
		      const char *data)
{
	struct needle_place p;

	assert_int_equal(find_in(w, volume_id, key, deleted, &p), 0);
	expect_at(&p, volume_id, key, data);
	store_unpin(&p);
}

static void expect(struct world *w, uint64_t key, const char *data)
{
	expect_in(w, 3, key, false, data);
}

/* Until a look-up in volume 3 has this result. */
static void wait_for(struct world *w, uint64_t key, int result)
{
	struct deadline d = deadline_in_ms(FOLLOW_MS);

	while (find(w, key) != result) {
		assert_false(deadline_passed(d));
		sleep_ms(5, d);
	}
}

/* --- the index --- */

static void test_needles_are_found_with_entries_of_either_width(void **state)
{
	struct world *w = *state;
	const struct volume_shape four = { .entry_bytes = 16 }, five = { .entry_bytes = 17 };
	struct volume_files *v = volume(w, "a/3.dat", "a/3.idx", &four);
	struct volume_files *u = volume(w, "a/4.dat", "a/4.idx", &five);

	for (uint64_t key = 1; key <= 300; key++) {
		volume_files_put(v, key, COOKIE, "four", 4);
		volume_files_put(u, key, COOKIE, "five", 4);
	}
	open_store(w, false);
	for (uint64_t key = 1; key <= 300; key++) {
		expect_in(w, 3, key, false, "four");
		expect_in(w, 4, key, false, "five");
	}
	volume_files_free(v);
	volume_files_free(u);
}

static void test_one_needle_is_enough_to_tell_the_width(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume(w, "a/3.dat", "a/3.idx",
					&(struct volume_shape){ .entry_bytes = 16 });

	open_store(w, false);
	assert_int_equal(find(w, 1), -ENOENT);
	volume_files_put(v, 1, COOKIE, "one", 3);
	expect(w, 1, "one");
	volume_files_free(v);
}

static void test_the_vif_has_the_say_about_the_width(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume(w, "a/3.dat", "a/3.idx", NULL);

	/* The records of these are not there to try it out with. */
	for (uint64_t key = 1; key <= 100; key++)
		volume_files_entry(v, key, 1 << 20, 1);
	volume_files_put(v, 101, COOKIE, "one", 3);
	write_text_file(path(w, "a/3.vif"), VIF_5);
	open_store(w, false);
	expect(w, 101, "one");
	assert_int_equal(find(w, 1), -ENOENT);
	volume_files_free(v);
}

static void test_an_index_that_fits_no_record_is_not_served(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume_3(w), *u = volume(w, "b/4.dat", "b/4.idx", NULL);
	struct store_stats stats;

	volume_files_entry(u, 9, 8, 100);
	volume_files_free(u);
	/* The newest needle of volume 3 is another one than the record says. */
	volume_files_entry(v, 2, 8, 8);
	write_text_file(path(w, "a/3.vif"), VIF_5);
	open_store(w, false);
	assert_int_equal(find(w, 1), -EOPNOTSUPP);
	assert_false(store_has_volume(w->store, 4));
	store_stats(w->store, &stats);
	assert_int_equal(stats.refused, 2);
	volume_files_free(v);
}

static void test_the_newest_of_a_needles_records_counts(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume_3(w);

	volume_files_put(v, 1, COOKIE, "two", 3);
	open_store(w, false);
	expect(w, 1, "two");
	volume_files_put(v, 1, COOKIE, "three", 5);
	expect(w, 1, "three");
	volume_files_free(v);
}

static void test_a_deleted_needle_is_found_by_those_who_ask_for_it(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume_3(w);
	struct needle_place p;

	open_store(w, false);
	volume_files_delete(v, 1);
	volume_files_delete(v, 2);
	assert_int_equal(find(w, 1), -ENOENT);
	expect_in(w, 3, 1, true, "one");
	assert_int_equal(find_in(w, 3, 2, true, &p), -ENOENT);
	volume_files_put(v, 1, COOKIE, "back", 4);
	expect(w, 1, "back");
	volume_files_free(v);
}

static void test_facts_are_kept_until_the_needle_changes(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume_3(w);
	struct needle_place p;

	open_store(w, false);
	assert_int_equal(find_in(w, 3, 1, false, &p), 0);
	assert_false(p.facts.plain_tail);
	p.facts = (struct needle_facts){ true, true, NEEDLE_SOUND };
	store_note_facts(&p, 1);
	store_unpin(&p);
	assert_int_equal(find_in(w, 3, 1, false, &p), 0);
	assert_true(p.facts.plain_tail && p.facts.gzip && p.facts.check == NEEDLE_SOUND);
	store_unpin(&p);
	volume_files_delete(v, 1);
	assert_int_equal(find_in(w, 3, 1, true, &p), 0);
	assert_false(p.facts.plain_tail || p.facts.gzip || p.facts.check != NEEDLE_UNCHECKED);
	/* What was found before that must not be kept for what comes after. */
	struct needle_place before = p;
	volume_files_put(v, 1, COOKIE, "back", 4);
	assert_int_equal(find_in(w, 3, 1, false, &p), 0);
	before.facts.check = NEEDLE_CORRUPT;
	store_note_facts(&before, 1);
	store_unpin(&before);
	store_unpin(&p);
	expect(w, 1, "back");
	assert_int_equal(find_in(w, 3, 1, false, &p), 0);
	assert_int_equal(p.facts.check, NEEDLE_UNCHECKED);
	store_unpin(&p);
	volume_files_free(v);
}

static void test_what_a_check_found_outlives_who_did_not_look(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume_3(w);
	struct needle_place p, other;

	open_store(w, false);
	assert_int_equal(find_in(w, 3, 1, false, &p), 0);
	assert_int_equal(find_in(w, 3, 1, false, &other), 0);
	other.facts = (struct needle_facts){ true, false, NEEDLE_CORRUPT };
	store_note_facts(&other, 1);
	p.facts = (struct needle_facts){ true, true, NEEDLE_UNCHECKED };
	store_note_facts(&p, 1);
	store_unpin(&other);
	store_unpin(&p);
	assert_int_equal(find_in(w, 3, 1, false, &p), 0);
	assert_true(p.facts.plain_tail && p.facts.gzip && p.facts.check == NEEDLE_CORRUPT);
	store_unpin(&p);
	volume_files_free(v);
}

static void test_an_append_is_seen_at_once(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume_3(w);
	struct store_stats stats;

	open_store(w, false);
	for (uint64_t key = 2; key < 3000; key++) {
		volume_files_put(v, key, COOKIE, "more", 4);
		expect(w, key, "more");
	}
	store_stats(w->store, &stats);
	assert_int_equal(stats.needles, 2999);
	volume_files_free(v);
}

static void test_what_lies_outside_of_the_records_is_ignored(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume_3(w);

	open_store(w, false);
	volume_files_entry(v, 1, 1 << 30, 3);
	volume_files_entry(v, 2, 8, INT32_MAX);
	volume_files_entry(v, 3, UINT64_C(0xffffffffff) * 8, INT32_MAX);
	expect(w, 1, "one");
	assert_int_equal(find(w, 2), -ENOENT);
	assert_int_equal(find(w, 3), -ENOENT);
	volume_files_free(v);
}

static void test_half_an_entry_waits_for_its_other_half(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume_3(w);
	/* needle 2 is where needle 1 is */
	const uint8_t entry[17] = { [7] = 2, [11] = 1, [16] = 8 };

	open_store(w, false);
	volume_files_idx_bytes(v, entry, 9);
	assert_int_equal(find(w, 2), -ENOENT);
	expect(w, 1, "one");
	volume_files_idx_bytes(v, entry + 9, 8);
	assert_int_equal(find(w, 2), 0);
	volume_files_free(v);
}

static void test_empty_needles_and_long_superblocks_are_served(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume(w, "a/3.dat", "a/3.idx",
					&(struct volume_shape){ .extra_bytes = 21 });

	volume_files_put(v, 1, COOKIE, "", 0);
	volume_files_put(v, 2, COOKIE, "two", 3);
	open_store(w, false);
	expect(w, 1, "");
	expect(w, 2, "two");
	volume_files_free(v);
}

/* --- files that change under it --- */

/* Not what was there before; the next look at the directories may have come already, or have to come. */
static void assert_not_as_before(struct world *w, uint64_t key, int now)
{
	int err = find(w, key);

	assert_true(err == -EOPNOTSUPP || err == now);
}

static void test_an_index_that_shrinks_is_loaded_again(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume_3(w);

	volume_files_put(v, 2, COOKIE, "two", 3);
	open_store(w, false);
	assert_int_equal(truncate(path(w, "a/3.idx"), 17), 0);
	assert_not_as_before(w, 2, -ENOENT);
	wait_for(w, 2, -ENOENT);
	expect(w, 1, "one");
	volume_files_free(v);
}

static void test_an_index_written_anew_is_loaded_again(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume_3(w);

	open_store(w, false);
	volume_files_free(v);
	v = volume(w, "a/3.dat", "a/3.idx", NULL); /* the same inodes */
	volume_files_put(v, 7, COOKIE, "seven", 5);
	volume_files_put(v, 8, COOKIE, "eight", 5);
	assert_not_as_before(w, 8, 0);
	wait_for(w, 8, 0);
	expect(w, 7, "seven");
	assert_int_equal(find(w, 1), -ENOENT);
	volume_files_free(v);
}

/* What a vacuum would leave of volume 3: needle 1 behind needle 2. */
static struct volume_files *compacted_3(struct world *w)
{
	struct volume_files *v = volume(w, "a/3.cpd", "a/3.cpx",
					&(struct volume_shape){ .revision = 1 });

	volume_files_put(v, 2, COOKIE, "two", 3);
	volume_files_put(v, 1, COOKIE, "one", 3);
	return v;
}

static void test_a_vacuum_is_followed_through_both_renames(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume_3(w);
	struct store_stats stats;

	volume_files_delete(v, 1);
	volume_files_put(v, 2, COOKIE, "two", 3);
	open_store(w, false);
	struct volume_files *u = compacted_3(w);
	write_text_file(path(w, "a/3.cpc"), "");
	assert_int_equal(rename(path(w, "a/3.cpd"), path(w, "a/3.dat")), 0);
	/* Between the two the old pair is as right as before, for as long as it takes. */
	sleep_ms(STORE_POLL_MS + 200, deadline_in_ms(FOLLOW_MS));
	expect(w, 2, "two");
	assert_int_equal(find(w, 1), -ENOENT);
	assert_int_equal(rename(path(w, "a/3.cpx"), path(w, "a/3.idx")), 0);
	assert_int_equal(find(w, 2), -EOPNOTSUPP);
	assert_int_equal(unlink(path(w, "a/3.cpc")), 0);
	wait_for(w, 1, 0);
	expect(w, 1, "one");
	expect(w, 2, "two");
	store_stats(w->store, &stats);
	assert_int_equal(stats.reloads, 1);
	volume_files_free(v);
	volume_files_free(u);
}

static void test_a_start_between_the_renames_waits_for_the_second(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume_3(w), *u = compacted_3(w);

	write_text_file(path(w, "a/3.cpc"), "");
	assert_int_equal(rename(path(w, "a/3.cpd"), path(w, "a/3.dat")), 0);
	open_store(w, false);
	assert_int_equal(find(w, 1), -EOPNOTSUPP);
	assert_int_equal(rename(path(w, "a/3.cpx"), path(w, "a/3.idx")), 0);
	assert_int_equal(unlink(path(w, "a/3.cpc")), 0);
	wait_for(w, 2, 0);
	expect(w, 1, "one");
	volume_files_free(v);
	volume_files_free(u);
}

static void test_a_reader_keeps_the_bytes_it_found(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume_3(w), *u = compacted_3(w);
	struct needle_place p;

	open_store(w, false);
	assert_int_equal(find_in(w, 3, 1, false, &p), 0);
	assert_int_equal(rename(path(w, "a/3.cpd"), path(w, "a/3.dat")), 0);
	assert_int_equal(rename(path(w, "a/3.cpx"), path(w, "a/3.idx")), 0);
	wait_for(w, 2, 0);
	expect_at(&p, 3, 1, "one");
	unlink(path(w, "a/3.dat"));
	unlink(path(w, "a/3.idx"));
	wait_for(w, 1, -EOPNOTSUPP);
	expect_at(&p, 3, 1, "one");
	store_unpin(&p);
	volume_files_free(v);
	volume_files_free(u);
}

static void test_a_data_file_written_over_is_noticed_by_its_revision(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume_3(w);
	struct store_stats stats = { 0 };
	struct deadline d = deadline_in_ms(FOLLOW_MS);

	open_store(w, false);
	int fd = open(path(w, "a/3.dat"), O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "\0\x09", 2, 4), 2);
	close(fd);
	while (stats.reloads == 0 && !deadline_passed(d))
		store_stats(w->store, &stats);
	assert_int_equal(stats.reloads, 1);
	expect(w, 1, "one");
	volume_files_free(v);
}

static void test_volumes_come_and_go(void **state)
{
	struct world *w = *state;

	open_store(w, false); /* not even the directories are there */
	assert_int_equal(find(w, 1), -EOPNOTSUPP);
	struct volume_files *v = volume_3(w);
	wait_for(w, 1, 0);
	assert_true(store_has_volume(w->store, 3));
	unlink(path(w, "a/3.idx"));
	unlink(path(w, "a/3.dat"));
	assert_int_equal(find(w, 1), -EOPNOTSUPP);
	struct deadline d = deadline_in_ms(FOLLOW_MS);
	while (store_has_volume(w->store, 3))
		assert_false(deadline_passed(d));
	volume_files_free(v);
	v = volume(w, "b/3.dat", "b/3.idx", NULL);
	volume_files_put(v, 1, COOKIE, "elsewhere", 9);
	wait_for(w, 1, 0);
	expect(w, 1, "elsewhere");
	volume_files_free(v);
}

/* --- where volumes lie --- */

static void test_collections_and_directories_hold_volumes_side_by_side(void **state)
{
	struct world *w = *state;
	struct volume_files *v[] = {
		volume(w, "a/3.dat", "a/3.idx", NULL),
		volume(w, "b/my_bucket.x_4.dat", "b/my_bucket.x_4.idx", NULL),
		volume(w, "b/c_5.dat", "i/c_5.idx", NULL),
		volume(w, "a/c_6.dat", "a/c_6.idx", NULL),
	};
	struct store_stats stats;

	for (size_t i = 0; i < ARRAY_LEN(v); i++) {
		volume_files_put(v[i], 1, COOKIE, "here", 4);
		volume_files_free(v[i]);
	}
	open_store(w, true);
	for (uint32_t id = 3; id <= 6; id++)
		expect_in(w, id, 1, false, "here");
	store_stats(w->store, &stats);
	assert_int_equal(stats.volumes, 4);
	assert_int_equal(stats.refused, 0);
}

static void test_a_directory_given_twice_counts_once(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume_3(w);
	char again[80];

	snprintf(again, sizeof(again), "%s/b/../a/", w->dir);
	const char *dirs[] = { path(w, "a"), again };
	const struct store_config cfg = { .dirs = dirs, .n_dirs = 2, .idx_dir = again };
	assert_int_equal(store_open(&cfg, &w->store), 0);
	expect(w, 1, "one");
	volume_files_free(v);
}

static void test_what_is_there_twice_is_not_served(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume_3(w), *u = volume(w, "b/c_3.dat", "b/c_3.idx", NULL);

	open_store(w, false);
	assert_int_equal(find(w, 1), -EOPNOTSUPP);
	unlink(path(w, "b/c_3.dat"));
	wait_for(w, 1, 0);
	volume_files_free(v);
	volume_files_free(u);
}

/* --- what is left to the server --- */

/* Volume 3 is served but for one more file. */
static void refused_with(struct world *w, const char *name, const char *text)
{
	struct volume_files *v = volume_3(w);
	struct store_stats stats;

	write_text_file(path(w, "a/3.vif"), VIF_5);
	open_store(w, false);
	expect(w, 1, "one");
	write_text_file(path(w, name), text);
	wait_for(w, 1, -EOPNOTSUPP);
	store_stats(w->store, &stats);
	store_close(w->store);
	open_store(w, false);
	assert_int_equal(find(w, 1), -EOPNOTSUPP);
	store_stats(w->store, &stats);
	assert_int_equal(stats.refused, 1);
	volume_files_free(v);
}

static void test_a_volume_being_copied_is_not_served(void **state)
{
	refused_with(*state, "a/3.note", "copying");
}

static void test_an_erasure_coded_volume_is_not_served(void **state)
{
	refused_with(*state, "b/3.ecx", "");
}

static void test_a_tiered_volume_is_not_served(void **state)
{
	refused_with(*state, "a/3.vif", VIF_TIERED);
}

static void test_a_vif_written_again_changes_nothing(void **state)
{
	struct world *w = *state;
	struct volume_files *v = volume_3(w);
	struct store_stats stats;

	write_text_file(path(w, "a/3.vif"), VIF_5);
	open_store(w, false);
	write_text_file(path(w, "a/3.vif"), "{\"bytesOffset\":5,\"readOnly\":true}");
	sleep_ms(STORE_POLL_MS + 200, deadline_in_ms(FOLLOW_MS));
	expect(w, 1, "one");
	store_stats(w->store, &stats);
	assert_int_equal(stats.reloads, 0);
	volume_files_free(v);
}

static void test_files_that_are_no_files_are_not_waited_for(void **state)
{
	struct world *w = *state;

	make_dirs(w);
	assert_int_equal(mkfifo(path(w, "a/3.dat"), 0600), 0);
	assert_int_equal(mkfifo(path(w, "a/3.idx"), 0600), 0);
	open_store(w, false);
	assert_int_equal(find(w, 1), -EOPNOTSUPP);
}

static void test_a_directory_that_is_none_is_an_error(void **state)
{
	struct world *w = *state;
	struct store *s = NULL;

	make_dirs(w);
	write_text_file(path(w, "file"), "");
	const char *dirs[] = { path(w, "file") };
	assert_int_equal(store_open(&(struct store_config){ .dirs = dirs, .n_dirs = 1 }, &s),
			 -ENOTDIR);
	assert_int_equal(store_open(&(struct store_config){ .dirs = dirs, .n_dirs = 0 }, &s),
			 -EINVAL);
	assert_null(s);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, make, drop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(test_needles_are_found_with_entries_of_either_width),
		TEST(test_one_needle_is_enough_to_tell_the_width),
		TEST(test_the_vif_has_the_say_about_the_width),
		TEST(test_an_index_that_fits_no_record_is_not_served),
		TEST(test_the_newest_of_a_needles_records_counts),
		TEST(test_a_deleted_needle_is_found_by_those_who_ask_for_it),
		TEST(test_facts_are_kept_until_the_needle_changes),
		TEST(test_what_a_check_found_outlives_who_did_not_look),
		TEST(test_an_append_is_seen_at_once),
		TEST(test_what_lies_outside_of_the_records_is_ignored),
		TEST(test_half_an_entry_waits_for_its_other_half),
		TEST(test_empty_needles_and_long_superblocks_are_served),
		TEST(test_an_index_that_shrinks_is_loaded_again),
		TEST(test_an_index_written_anew_is_loaded_again),
		TEST(test_a_vacuum_is_followed_through_both_renames),
		TEST(test_a_start_between_the_renames_waits_for_the_second),
		TEST(test_a_reader_keeps_the_bytes_it_found),
		TEST(test_a_data_file_written_over_is_noticed_by_its_revision),
		TEST(test_volumes_come_and_go),
		TEST(test_collections_and_directories_hold_volumes_side_by_side),
		TEST(test_a_directory_given_twice_counts_once),
		TEST(test_what_is_there_twice_is_not_served),
		TEST(test_a_volume_being_copied_is_not_served),
		TEST(test_an_erasure_coded_volume_is_not_served),
		TEST(test_a_tiered_volume_is_not_served),
		TEST(test_a_vif_written_again_changes_nothing),
		TEST(test_files_that_are_no_files_are_not_waited_for),
		TEST(test_a_directory_that_is_none_is_an_error),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
