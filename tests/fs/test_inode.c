/* The inode table: one version for those who have a file open, the present one for everybody else. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "filer/entry.h"
#include "fs/inode.h"

/* An entry as the filer would send it. */
static struct entry *entry(const char *kind, unsigned size)
{
	char json[512];
	struct entry *e;
	int n = snprintf(json, sizeof(json),
			 "{\"FullPath\":\"/x\",\"Mtime\":\"2026-01-02T03:04:05Z\",\"Mode\":%s,"
			 "\"FileSize\":%u,\"Inode\":0,\"SymlinkTarget\":\"%s\"}",
			 strcmp(kind, "dir") == 0       ? "2147484141"
			 : strcmp(kind, "symlink") == 0 ? "134218239"
							: "420",
			 size, strcmp(kind, "symlink") == 0 ? (size ? "target2" : "target1") : "");

	assert_int_equal(entry_from_json(json, (size_t)n, &e, NULL), 0);
	return e;
}

static struct inode_table *new_table(const char *path)
{
	struct inode_table *t;

	assert_int_equal(inode_table_new(path, entry("dir", 0), &t), 0);
	return t;
}

static struct inode *bind(struct inode_table *t, struct inode *parent, const char *name,
			  struct entry *e)
{
	struct inode *i;

	assert_int_equal(inode_bind(t, parent, name, e, (struct asked){ 0 }, &i), 0);
	return i;
}

static void assert_path(struct inode_table *t, struct inode *i, const char *name,
			const char *wanted)
{
	char *path;

	assert_int_equal(inode_path(t, i, name, &path), 0);
	assert_string_equal(path, wanted);
	free(path);
}

static void open_version(struct inode_table *t, struct inode *i, bool *keep)
{
	struct inode_view v;

	inode_view(t, i, &v);
	assert_int_equal(inode_open(t, i, v.entry, keep), 0);
	entry_put(v.entry);
}

static void a_name_keeps_its_inode_while_the_kernel_knows_it(void **state)
{
	struct inode_table *t = new_table("/");
	struct inode *root = inode_root(t);

	(void)state;
	struct inode *a = bind(t, root, "a", entry("file", 1));
	assert_ptr_equal(bind(t, root, "a", entry("file", 1)), a);
	assert_ptr_not_equal(bind(t, root, "b", entry("file", 1)), a);
	inode_table_free(t);
}

static void paths_start_at_the_mounted_directory(void **state)
{
	struct inode_table *t = new_table("/sub");
	struct inode *d = bind(t, inode_root(t), "d", entry("dir", 0));

	(void)state;
	assert_path(t, inode_root(t), NULL, "/sub");
	assert_path(t, d, NULL, "/sub/d");
	assert_path(t, bind(t, d, "f", entry("file", 0)), NULL, "/sub/d/f");
	assert_path(t, d, "new", "/sub/d/new");
	inode_table_free(t);
}

static void the_root_of_the_filer_is_a_slash(void **state)
{
	struct inode_table *t = new_table("/");

	(void)state;
	assert_path(t, inode_root(t), NULL, "/");
	assert_path(t, inode_root(t), "a", "/a");
	inode_table_free(t);
}

static void forgetting_the_last_lookup_frees_the_inode_and_its_parents(void **state)
{
	struct inode_table *t = new_table("/");
	struct inode *d = bind(t, inode_root(t), "d", entry("dir", 0));
	struct inode *f = bind(t, d, "f", entry("file", 0));
	struct inode_stats s;

	(void)state;
	inode_forget(t, d, 1);
	inode_table_stats(t, &s);
	assert_int_equal(s.inodes, 3);
	inode_forget(t, f, 1);
	inode_table_stats(t, &s);
	assert_int_equal(s.inodes, 1);
	inode_table_free(t);
}

static void a_closed_file_takes_a_new_version_in_place(void **state)
{
	struct inode_table *t = new_table("/");
	struct inode *a = bind(t, inode_root(t), "a", entry("file", 1));
	struct inode_view v;

	(void)state;
	assert_ptr_equal(bind(t, inode_root(t), "a", entry("file", 2)), a);
	inode_view(t, a, &v);
	assert_int_equal(v.entry->size, 2);
	entry_put(v.entry);
	inode_table_free(t);
}

static void an_open_file_keeps_its_version_and_the_name_gets_a_new_inode(void **state)
{
	struct inode_table *t = new_table("/");
	struct inode *a = bind(t, inode_root(t), "a", entry("file", 1));
	struct inode_view v;
	bool keep;
	char *path;

	(void)state;
	open_version(t, a, &keep);
	struct inode *b = bind(t, inode_root(t), "a", entry("file", 2));
	assert_ptr_not_equal(a, b);
	inode_view(t, a, &v);
	assert_int_equal(v.entry->size, 1);
	assert_true(v.detached);
	entry_put(v.entry);
	assert_int_equal(inode_path(t, a, NULL, &path), -ESTALE);
	inode_close(t, a);
	inode_table_free(t);
}

static void refreshing_an_open_file_does_not_change_its_version(void **state)
{
	struct inode_table *t = new_table("/");
	struct inode *a = bind(t, inode_root(t), "a", entry("file", 1));
	bool keep;

	(void)state;
	open_version(t, a, &keep);
	assert_false(inode_refresh(t, a, entry("file", 2), 0));
	inode_close(t, a);
	assert_true(inode_refresh(t, a, entry("file", 2), 0));
	inode_table_free(t);
}

static void another_type_under_a_name_is_another_inode(void **state)
{
	struct inode_table *t = new_table("/");
	struct inode *a = bind(t, inode_root(t), "a", entry("file", 1));

	(void)state;
	assert_ptr_not_equal(bind(t, inode_root(t), "a", entry("dir", 0)), a);
	inode_table_free(t);
}

static void another_target_of_a_symlink_is_another_inode(void **state)
{
	struct inode_table *t = new_table("/");
	struct inode *a = bind(t, inode_root(t), "a", entry("symlink", 0));

	(void)state;
	assert_ptr_equal(bind(t, inode_root(t), "a", entry("symlink", 0)), a);
	assert_ptr_not_equal(bind(t, inode_root(t), "a", entry("symlink", 1)), a);
	inode_table_free(t);
}

static void the_page_cache_is_kept_only_for_a_version_that_was_read(void **state)
{
	struct inode_table *t = new_table("/");
	struct inode *a = bind(t, inode_root(t), "a", entry("file", 1));
	bool keep;

	(void)state;
	open_version(t, a, &keep);
	assert_false(keep);
	open_version(t, a, &keep);
	assert_false(keep);
	inode_open_confirmed(t, a);
	open_version(t, a, &keep);
	assert_true(keep);
	inode_close(t, a);
	inode_close(t, a);
	inode_close(t, a);
	(void)bind(t, inode_root(t), "a", entry("file", 2));
	open_version(t, a, &keep);
	assert_false(keep);
	inode_close(t, a);
	inode_table_free(t);
}

static void one_lookup_is_good_for_one_open(void **state)
{
	struct inode_table *t = new_table("/");
	struct inode_view v;
	struct inode *a;
	bool keep;

	(void)state;
	assert_int_equal(
		inode_bind(t, inode_root(t), "a", entry("file", 1), (struct asked){ .by = 42 }, &a),
		0);
	inode_view(t, a, &v);
	assert_int_equal(v.looked_up_by, 42);
	entry_put(v.entry);
	open_version(t, a, &keep);
	inode_view(t, a, &v);
	assert_int_equal(v.looked_up_by, 0);
	entry_put(v.entry);
	inode_close(t, a);
	inode_table_free(t);
}

/* Names f00, f01, ... as a listing gives them. */
static void list(struct inode_table *t, struct inode **files, size_t n)
{
	char name[2][8] = { "", "" };

	for (size_t i = 0; i < n; i++) {
		snprintf(name[i % 2], sizeof(name[0]), "f%02zu", i % 100);
		assert_int_equal(inode_bind(t, inode_root(t), name[i % 2],
					    entry("file", 100 + (unsigned)i),
					    (struct asked){ .after = i ? name[(i + 1) % 2] : NULL },
					    &files[i]),
				 0);
	}
}

static bool any(const struct entry *e)
{
	(void)e;
	return true;
}

#define WALK_MAX 8

/* Opens the i-th file: how many are to be fetched ahead, and *ret_first, the first of those. */
static size_t step(struct inode_table *t, struct inode *file, unsigned *ret_first)
{
	struct entry *ahead[WALK_MAX];
	size_t n = inode_walk(t, file, any, ahead, WALK_MAX);

	for (size_t i = 0; i < n; i++) {
		if (i == 0)
			*ret_first = (unsigned)ahead[0]->size - 100;
		assert_int_equal(ahead[i]->size, ahead[0]->size + i);
	}
	for (size_t i = 0; i < n; i++)
		entry_put(ahead[i]);
	return n;
}

#define FILES 50

static void files_opened_in_the_order_of_the_listing_are_a_walk(void **state)
{
	struct inode_table *t = new_table("/");
	struct inode *files[FILES];
	unsigned first = 0, next = 0;

	(void)state;
	list(t, files, FILES);
	assert_int_equal(step(t, files[0], &first), 0);
	for (unsigned i = 1; i < FILES; i++) {
		size_t n = step(t, files[i], &first);

		if (n == 0)
			continue;
		/* each once, in order, and never more than the limit beyond the one that is open */
		assert_int_equal(first, next ? next : 2);
		next = first + (unsigned)n;
		assert_true(next <= i + 1 + WALK_MAX);
	}
	assert_int_equal(next, FILES);
	inode_table_free(t);
}

static void files_opened_in_another_order_are_no_walk(void **state)
{
	struct inode_table *t = new_table("/");
	struct inode *files[FILES];
	unsigned first;

	(void)state;
	list(t, files, FILES);
	for (size_t i = 0; i < FILES; i++)
		assert_int_equal(step(t, files[FILES - 1 - i], &first), 0);
	inode_table_free(t);
}

static void a_walk_ends_where_another_one_goes(void **state)
{
	struct inode_table *t = new_table("/");
	struct inode *files[FILES];
	unsigned first;

	(void)state;
	list(t, files, FILES);
	step(t, files[4], &first);
	step(t, files[0], &first);
	assert_int_equal(step(t, files[1], &first), 2);
	assert_int_equal(first, 2);
	inode_table_free(t);
}

static void what_is_no_file_is_passed_on_a_walk(void **state)
{
	struct inode_table *t = new_table("/");
	struct inode *a, *d, *b;
	unsigned first;

	(void)state;
	assert_int_equal(
		inode_bind(t, inode_root(t), "a", entry("file", 100), (struct asked){ 0 }, &a), 0);
	assert_int_equal(inode_bind(t, inode_root(t), "d", entry("dir", 0),
				    (struct asked){ .after = "a" }, &d),
			 0);
	assert_int_equal(inode_bind(t, inode_root(t), "e", entry("file", 101),
				    (struct asked){ .after = "d" }, &b),
			 0);
	(void)bind(t, inode_root(t), "f", entry("file", 103));
	assert_int_equal(inode_bind(t, inode_root(t), "f", entry("file", 103),
				    (struct asked){ .after = "e" }, &d),
			 0);
	step(t, a, &first);
	assert_int_equal(step(t, b, &first), 1);
	assert_int_equal(first, 3);
	inode_table_free(t);
}

static void a_neighbour_with_an_endless_name_is_nobody(void **state)
{
	struct inode_table *t = new_table("/");
	static char endless[100000];
	struct inode *file;
	unsigned first;

	(void)state;
	memset(endless, 'x', sizeof(endless) - 1);
	assert_int_equal(inode_bind(t, inode_root(t), "a", entry("file", 100),
				    (struct asked){ .after = endless }, &file),
			 0);
	assert_int_equal(step(t, file, &first), 0);
	inode_table_free(t);
}

static void a_forgotten_neighbour_is_not_fetched_ahead(void **state)
{
	struct inode_table *t = new_table("/");
	struct inode *files[FILES];
	unsigned first;

	(void)state;
	list(t, files, 4);
	inode_forget(t, files[2], 1);
	step(t, files[0], &first);
	assert_int_equal(step(t, files[1], &first), 1);
	assert_int_equal(first, 3);
	inode_table_free(t);
}

static void a_name_that_was_replaced_is_not_fetched_ahead_in_its_old_version(void **state)
{
	struct inode_table *t = new_table("/");
	struct inode *files[FILES];
	unsigned first;
	bool keep;

	(void)state;
	list(t, files, 4);
	open_version(t, files[2], &keep);
	(void)bind(t, inode_root(t), "f02", entry("file", 7));
	step(t, files[0], &first);
	assert_int_equal(step(t, files[1], &first), 1);
	assert_int_equal(first, 3);
	inode_close(t, files[2]);
	inode_table_free(t);
}

static void opening_a_version_that_is_no_longer_there_is_stale(void **state)
{
	struct inode_table *t = new_table("/");
	struct inode *a = bind(t, inode_root(t), "a", entry("file", 1));
	struct entry *other = entry("file", 2);
	bool keep;

	(void)state;
	assert_int_equal(inode_open(t, a, other, &keep), -ESTALE);
	entry_put(other);
	inode_table_free(t);
}

static void a_name_without_a_number_of_the_filer_has_a_stable_one(void **state)
{
	struct entry *e = entry("file", 1);

	(void)state;
	assert_int_equal(inode_number(1, "a", e), inode_number(1, "a", e));
	assert_int_not_equal(inode_number(1, "a", e), inode_number(1, "b", e));
	assert_int_not_equal(inode_number(1, "a", e), inode_number(2, "a", e));
	entry_put(e);
}

/* A file of so many chunks. */
static struct entry *entry_of_chunks(unsigned n)
{
	char *json = malloc(200 + 100 * n);
	struct entry *e;
	int len = sprintf(json,
			  "{\"FullPath\":\"/x\",\"Mtime\":\"2026-01-02T03:04:05Z\","
			  "\"Mode\":420,\"FileSize\":%u,\"chunks\":[",
			  n);

	for (unsigned i = 0; i < n; i++)
		len += sprintf(json + len,
			       "%s{\"file_id\":\"1,%02x00000000\",\"offset\":%u,\"size\":1}",
			       i ? "," : "", i + 1, i);
	len += sprintf(json + len, "]}");
	assert_int_equal(entry_from_json(json, (size_t)len, &e, NULL), 0);
	free(json);
	return e;
}

static void a_long_chunk_list_is_not_kept_but_the_version_is(void **state)
{
	struct inode_table *t = new_table("/");
	struct entry *e = entry_of_chunks(100);
	uint64_t version = e->version;
	struct inode *a = bind(t, inode_root(t), "a", e);
	struct inode *b = bind(t, inode_root(t), "b", entry_of_chunks(2));
	struct inode_view v;

	(void)state;
	inode_view(t, a, &v);
	assert_true(v.entry->trimmed);
	assert_int_equal(v.entry->n_chunks, 0);
	assert_int_equal(v.entry->size, 100);
	assert_true(v.entry->version == version);
	entry_put(v.entry);
	inode_view(t, b, &v);
	assert_false(v.entry->trimmed);
	assert_int_equal(v.entry->n_chunks, 2);
	entry_put(v.entry);
	inode_table_free(t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_name_keeps_its_inode_while_the_kernel_knows_it),
		cmocka_unit_test(paths_start_at_the_mounted_directory),
		cmocka_unit_test(the_root_of_the_filer_is_a_slash),
		cmocka_unit_test(forgetting_the_last_lookup_frees_the_inode_and_its_parents),
		cmocka_unit_test(a_closed_file_takes_a_new_version_in_place),
		cmocka_unit_test(an_open_file_keeps_its_version_and_the_name_gets_a_new_inode),
		cmocka_unit_test(refreshing_an_open_file_does_not_change_its_version),
		cmocka_unit_test(another_type_under_a_name_is_another_inode),
		cmocka_unit_test(another_target_of_a_symlink_is_another_inode),
		cmocka_unit_test(the_page_cache_is_kept_only_for_a_version_that_was_read),
		cmocka_unit_test(one_lookup_is_good_for_one_open),
		cmocka_unit_test(files_opened_in_the_order_of_the_listing_are_a_walk),
		cmocka_unit_test(files_opened_in_another_order_are_no_walk),
		cmocka_unit_test(a_walk_ends_where_another_one_goes),
		cmocka_unit_test(what_is_no_file_is_passed_on_a_walk),
		cmocka_unit_test(a_neighbour_with_an_endless_name_is_nobody),
		cmocka_unit_test(a_forgotten_neighbour_is_not_fetched_ahead),
		cmocka_unit_test(a_name_that_was_replaced_is_not_fetched_ahead_in_its_old_version),
		cmocka_unit_test(opening_a_version_that_is_no_longer_there_is_stale),
		cmocka_unit_test(a_name_without_a_number_of_the_filer_has_a_stable_one),
		cmocka_unit_test(a_long_chunk_list_is_not_kept_but_the_version_is),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
