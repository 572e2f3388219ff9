/* nullfs: a FUSE file system that answers from memory and does nothing else. What it reaches is what
 * the kernel and libfuse leave to any file system; scripts/bench puts it beside the others.
 *
 *   nullfs [--store-ahead MIB] [--hand-over THREADS] MOUNTPOINT NAME:DIRS:FILES:BYTES...
 *
 * Each tree is a directory NAME with directories d00000, d00001, ... of FILES files each,
 * f000000, f000001, ..., all of BYTES bytes. It stays in the foreground. For scripts/levers, what kelpfs
 * does not do: with --store-ahead a thread puts the MIB that follow each read into the page cache
 * before anybody asks for them; with --hand-over reads are answered by other threads than those that
 * take requests from the kernel.
 *
 * Threads: the trees and the options are made before the session loop starts and never change after.
 * What the threads of the two options are given is under a lock of its own each. */
#include <ctype.h>
#include <errno.h>
#include <fuse_lowlevel.h>
#include <getopt.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define READ_BYTES_MAX (1024 * 1024)
#define MAX_BACKGROUND 64
#define TIMEOUT_S 1.0
#define TREES_MAX 16
#define NAME_BYTES 32
#define STORE_AHEAD_MIB_MAX 1024
#define HAND_OVER_THREADS_MAX 64
/* More than the kernel has under way: each of its readers waits, and MAX_BACKGROUND are read ahead. */
#define HANDED_OVER_MAX 1024
/* An inode number is file + 1 in the low bits, dir + 1 above, tree + 1 on top; 0 means that it stops
 * before that level. The root's number, FUSE_ROOT_ID, has no tree and so is like none of them. */
#define FILE_BITS 24
#define DIR_BITS 16

struct tree {
	char name[NAME_BYTES];
	unsigned dirs;
	unsigned files;
	off_t bytes;
};

/* What an inode number says. */
struct node {
	enum { LEVEL_ROOT, LEVEL_TREE, LEVEL_DIR, LEVEL_FILE } level;
	unsigned tree, dir;
};

static struct tree trees[TREES_MAX];
static unsigned n_trees;
static char data[READ_BYTES_MAX];
static struct fuse_session *session;
static off_t store_ahead_bytes;
static unsigned hand_over_threads;

/* What is to be stored: the last wish counts. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t wished;
	/* under lock */
	fuse_ino_t ino; /* 0: nothing */
	off_t from;
} ahead = { .lock = PTHREAD_MUTEX_INITIALIZER, .wished = PTHREAD_COND_INITIALIZER };

struct handed_read {
	fuse_req_t req;
	size_t size;
};

/* Reads for the other threads, a ring. */
static struct {
	pthread_mutex_t lock;
	pthread_cond_t added;
	/* under lock */
	struct handed_read reads[HANDED_OVER_MAX];
	size_t first, n;
} handed = { .lock = PTHREAD_MUTEX_INITIALIZER, .added = PTHREAD_COND_INITIALIZER };

/* The kernel only hands back numbers that it was given. */
static struct node decode(fuse_ino_t ino)
{
	unsigned file = ino & ((1U << FILE_BITS) - 1);
	unsigned dir = (ino >> FILE_BITS) & ((1U << DIR_BITS) - 1);
	unsigned tree = (unsigned)(ino >> (FILE_BITS + DIR_BITS));

	if (ino == FUSE_ROOT_ID)
		return (struct node){ .level = LEVEL_ROOT };
	if (!dir)
		return (struct node){ .level = LEVEL_TREE, .tree = tree - 1 };
	return (struct node){ .level = file ? LEVEL_FILE : LEVEL_DIR,
			      .tree = tree - 1,
			      .dir = dir - 1 };
}

static unsigned count_children(struct node parent)
{
	switch (parent.level) {
	case LEVEL_ROOT:
		return n_trees;
	case LEVEL_TREE:
		return trees[parent.tree].dirs;
	case LEVEL_DIR:
		return trees[parent.tree].files;
	case LEVEL_FILE:
		break;
	}
	return 0;
}

static fuse_ino_t child_ino(fuse_ino_t parent, struct node node, unsigned index)
{
	switch (node.level) {
	case LEVEL_ROOT:
		return (fuse_ino_t)(index + 1) << (FILE_BITS + DIR_BITS);
	case LEVEL_TREE:
		return parent + ((fuse_ino_t)(index + 1) << FILE_BITS);
	default:
		return parent + index + 1;
	}
}

static void child_name(struct node parent, unsigned index, char name[static NAME_BYTES])
{
	switch (parent.level) {
	case LEVEL_ROOT:
		snprintf(name, NAME_BYTES, "%s", trees[index].name);
		break;
	case LEVEL_TREE:
		snprintf(name, NAME_BYTES, "d%05u", index);
		break;
	default:
		snprintf(name, NAME_BYTES, "f%06u", index);
	}
}

static struct stat attributes(fuse_ino_t ino)
{
	struct node node = decode(ino);
	struct stat st = { .st_ino = ino, .st_nlink = 1, .st_mode = S_IFDIR | 0755 };

	if (node.level == LEVEL_FILE) {
		st.st_mode = S_IFREG | 0644;
		st.st_size = trees[node.tree].bytes;
		st.st_blocks = (st.st_size + 511) / 512;
	}
	return st;
}

static struct fuse_entry_param entry(fuse_ino_t ino)
{
	return (struct fuse_entry_param){
		.ino = ino,
		.attr = attributes(ino),
		.attr_timeout = TIMEOUT_S,
		.entry_timeout = TIMEOUT_S,
	};
}

static int find_child(struct node parent, const char *name, unsigned *ret_index)
{
	unsigned index = 0;
	char wanted[NAME_BYTES];

	if (parent.level == LEVEL_ROOT) {
		while (index < n_trees && strcmp(trees[index].name, name) != 0)
			index++;
	} else {
		index = (unsigned)strtoul(*name ? name + 1 : name, NULL, 10);
	}
	if (index >= count_children(parent))
		return -ENOENT;
	child_name(parent, index, wanted);
	if (strcmp(wanted, name) != 0)
		return -ENOENT;
	*ret_index = index;
	return 0;
}

static void null_init(void *arg, struct fuse_conn_info *conn)
{
	(void)arg;
	conn->max_read = READ_BYTES_MAX;
	conn->max_background = MAX_BACKGROUND;
}

static void null_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct node node = decode(parent);
	unsigned index;
	int err = find_child(node, name, &index);

	if (err) {
		fuse_reply_err(req, -err);
		return;
	}
	struct fuse_entry_param e = entry(child_ino(parent, node, index));
	fuse_reply_entry(req, &e);
}

static void null_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct stat st = attributes(ino);

	(void)fi;
	fuse_reply_attr(req, &st, TIMEOUT_S);
}

/* From `from` on, unless that was stored before: *stored_ino and *stored_to say how far it was. */
static void store(fuse_ino_t ino, off_t from, fuse_ino_t *stored_ino, off_t *stored_to)
{
	off_t size = attributes(ino).st_size;
	off_t end = from + store_ahead_bytes < size ? from + store_ahead_bytes : size;

	if (*stored_ino == ino && *stored_to > from && *stored_to <= end)
		from = *stored_to;
	while (from < end) {
		off_t n = end - from < READ_BYTES_MAX ? end - from : READ_BYTES_MAX;
		struct fuse_bufvec buf = FUSE_BUFVEC_INIT((size_t)n);

		buf.buf[0].mem = data;
		if (fuse_lowlevel_notify_store(session, ino, from, &buf, 0))
			return;
		from += n;
	}
	*stored_ino = ino;
	*stored_to = end;
}

static void *store_main(void *arg)
{
	fuse_ino_t stored_ino = 0;
	off_t stored_to = 0;

	(void)arg;
	for (;;) {
		pthread_mutex_lock(&ahead.lock);
		while (!ahead.ino)
			pthread_cond_wait(&ahead.wished, &ahead.lock);
		fuse_ino_t ino = ahead.ino;
		off_t from = ahead.from;
		ahead.ino = 0;
		pthread_mutex_unlock(&ahead.lock);
		store(ino, from, &stored_ino, &stored_to);
	}
	return NULL;
}

static void wish_stored(fuse_ino_t ino, off_t from)
{
	pthread_mutex_lock(&ahead.lock);
	ahead.ino = ino;
	ahead.from = from;
	pthread_cond_signal(&ahead.wished);
	pthread_mutex_unlock(&ahead.lock);
}

static void *hand_over_main(void *arg)
{
	(void)arg;
	for (;;) {
		pthread_mutex_lock(&handed.lock);
		while (!handed.n)
			pthread_cond_wait(&handed.added, &handed.lock);
		struct handed_read r = handed.reads[handed.first];
		handed.first = (handed.first + 1) % HANDED_OVER_MAX;
		handed.n--;
		pthread_mutex_unlock(&handed.lock);
		fuse_reply_buf(r.req, data, r.size);
	}
	return NULL;
}

static bool hand_over(fuse_req_t req, size_t size)
{
	pthread_mutex_lock(&handed.lock);
	bool taken = handed.n < HANDED_OVER_MAX;
	if (taken) {
		handed.reads[(handed.first + handed.n) % HANDED_OVER_MAX] = (struct handed_read){
			.req = req, .size = size
		};
		handed.n++;
		pthread_cond_signal(&handed.added);
	}
	pthread_mutex_unlock(&handed.lock);
	return taken;
}

static void null_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
		      struct fuse_file_info *fi)
{
	off_t left = attributes(ino).st_size - off;

	(void)fi;
	if (left < 0)
		left = 0;
	if (size > (size_t)left)
		size = (size_t)left;
	if (size > sizeof(data))
		size = sizeof(data);
	if (!hand_over_threads || !hand_over(req, size))
		fuse_reply_buf(req, data, size);
	if (store_ahead_bytes)
		wish_stored(ino, off + (off_t)size);
}

static void reply_listing(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, bool plus)
{
	struct node node = decode(ino);
	unsigned n = count_children(node);
	char name[NAME_BYTES];
	size_t used = 0;
	char *buf = malloc(size);

	if (!buf) {
		fuse_reply_err(req, ENOMEM);
		return;
	}
	for (unsigned i = (unsigned)off; i < n; i++) {
		struct fuse_entry_param e = entry(child_ino(ino, node, i));
		size_t need;

		child_name(node, i, name);
		if (plus)
			need = fuse_add_direntry_plus(req, buf + used, size - used, name, &e,
						      (off_t)i + 1);
		else
			need = fuse_add_direntry(req, buf + used, size - used, name, &e.attr,
						 (off_t)i + 1);
		if (need > size - used)
			break;
		used += need;
	}
	fuse_reply_buf(req, buf, used);
	free(buf);
}

static void null_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
			 struct fuse_file_info *fi)
{
	(void)fi;
	reply_listing(req, ino, size, off, false);
}

static void null_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off,
			     struct fuse_file_info *fi)
{
	(void)fi;
	reply_listing(req, ino, size, off, true);
}

static const struct fuse_lowlevel_ops operations = {
	.init = null_init,
	.lookup = null_lookup,
	.getattr = null_getattr,
	.read = null_read,
	.readdir = null_readdir,
	.readdirplus = null_readdirplus,
};

/* Reads ":NUMBER" with NUMBER below limit at *text and steps over it. */
static int take_number(const char **text, uint64_t limit, uint64_t *ret)
{
	char *end;

	if ((*text)[0] != ':' || !isdigit((unsigned char)(*text)[1]))
		return -EINVAL;
	errno = 0;
	uint64_t number = strtoull(*text + 1, &end, 10);
	if (errno || number >= limit)
		return -EINVAL;
	*text = end;
	*ret = number;
	return 0;
}

static int add_tree(const char *text)
{
	size_t name_bytes = strcspn(text, ":/");
	const char *rest = text + name_bytes;
	uint64_t dirs, files, bytes;
	struct tree t = { 0 };

	if (n_trees == TREES_MAX || !name_bytes || name_bytes >= NAME_BYTES ||
	    take_number(&rest, 1U << DIR_BITS, &dirs) ||
	    take_number(&rest, 1U << FILE_BITS, &files) || take_number(&rest, INT64_MAX, &bytes) ||
	    *rest) {
		fprintf(stderr, "nullfs: not NAME:DIRS:FILES:BYTES, or too much: %s\n", text);
		return -EINVAL;
	}
	memcpy(t.name, text, name_bytes);
	t.dirs = (unsigned)dirs;
	t.files = (unsigned)files;
	t.bytes = (off_t)bytes;
	trees[n_trees++] = t;
	return 0;
}

/* They end with the process: nothing of theirs is of any use after the session. */
static int start_threads(void)
{
	pthread_t thread;
	int err = store_ahead_bytes ? pthread_create(&thread, NULL, store_main, NULL) : 0;

	for (unsigned i = 0; !err && i < hand_over_threads; i++)
		err = pthread_create(&thread, NULL, hand_over_main, NULL);
	return -err;
}

static int serve(const char *mountpoint)
{
	char options[64];
	int err = -EIO;

	snprintf(options, sizeof(options), "-oro,fsname=nullfs,subtype=nullfs,max_read=%d",
		 READ_BYTES_MAX);
	char *argv[] = { (char *)"nullfs", options, NULL };
	struct fuse_args args = FUSE_ARGS_INIT(2, argv);
	struct fuse_loop_config *config = fuse_loop_cfg_create();
	if (!config)
		return -ENOMEM;
	session = fuse_session_new(&args, &operations, sizeof(operations), NULL);
	if (!session)
		goto config;
	if (fuse_set_signal_handlers(session))
		goto config;
	if (fuse_session_mount(session, mountpoint))
		goto handlers;
	err = start_threads();
	if (!err)
		err = fuse_session_loop_mt(session, config) < 0 ? -EIO : 0;
	fuse_session_unmount(session);
handlers:
	fuse_remove_signal_handlers(session);
config:
	/* The session is left to the process's end: threads of the options may be using it. */
	fuse_loop_cfg_destroy(config);
	fuse_opt_free_args(&args);
	return err;
}

static int parse_number(const char *text, unsigned max, unsigned *ret)
{
	char *end;
	unsigned long n = strtoul(text, &end, 10);

	if (!isdigit((unsigned char)*text) || *end || n > max)
		return -EINVAL;
	*ret = (unsigned)n;
	return 0;
}

static int parse_options(int argc, char *argv[])
{
	static const struct option known[] = {
		{ "store-ahead", required_argument, NULL, 's' },
		{ "hand-over", required_argument, NULL, 'h' },
		{ 0 },
	};
	unsigned store_mib;
	int c;

	while ((c = getopt_long(argc, argv, "+", known, NULL)) != -1) {
		switch (c) {
		case 's':
			if (parse_number(optarg, STORE_AHEAD_MIB_MAX, &store_mib))
				return -EINVAL;
			store_ahead_bytes = (off_t)store_mib << 20;
			break;
		case 'h':
			if (parse_number(optarg, HAND_OVER_THREADS_MAX, &hand_over_threads))
				return -EINVAL;
			break;
		default:
			return -EINVAL;
		}
	}
	return argc - optind < 2 ? -EINVAL : 0;
}

int main(int argc, char *argv[])
{
	if (parse_options(argc, argv)) {
		fprintf(stderr,
			"usage: nullfs [--store-ahead MIB] [--hand-over THREADS] MOUNTPOINT "
			"NAME:DIRS:FILES:BYTES...\n");
		return EXIT_FAILURE;
	}
	for (int i = optind + 1; i < argc; i++) {
		if (add_tree(argv[i]))
			return EXIT_FAILURE;
	}
	/* Not the kernel's one page of zeros, which would be cheaper to copy than data are. */
	memset(data, 'n', sizeof(data));
	return serve(argv[optind]) ? EXIT_FAILURE : EXIT_SUCCESS;
}
