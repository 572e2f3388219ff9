/* Thread model: any thread calls; one lock protects the list. Files are written without it. */
#include "fs/ctl_serve_temp.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/queue.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "filer/base/base.h"

#define PREFIX "needle-"
#define SECRET_BYTES 16
#define NAME_BYTES (sizeof(PREFIX) + 2 * (size_t)SECRET_BYTES)

struct temp_file {
	TAILQ_ENTRY(temp_file) link;
	char name[NAME_BYTES]; /* immutable */
	size_t bytes;
	int64_t made_ms;
};

struct temp_files {
	char *folder; /* absolute; immutable */
	int fd; /* of the folder, and locked: nobody else uses it */

	pthread_mutex_t lock; /* protects all below */
	TAILQ_HEAD(files, temp_file) files; /* the oldest first */
	struct temp_stats stats;
};

/* --- the folder --- */

static int refuse(const char *folder, int err, const char *why, char *message, size_t bytes)
{
	snprintf(message, bytes, "%s: %s", folder, why);
	return err;
}

static int check_folder(const char *folder, int fd, char *message, size_t bytes)
{
	struct stat st;

	if (fstat(fd, &st))
		return refuse(folder, -errno, strerror(errno), message, bytes);
	if (st.st_uid != geteuid())
		return refuse(folder, -EPERM, "belongs to another user", message, bytes);
	if (st.st_mode & (S_IRWXG | S_IRWXO))
		return refuse(folder, -EPERM, "others may enter it (chmod 700)", message, bytes);
	if (flock(fd, LOCK_EX | LOCK_NB))
		return refuse(folder, -EBUSY, "in use by another process", message, bytes);
	return 0;
}

/* Left by a run that was killed. */
static void remove_remains(int folder_fd)
{
	int fd = openat(folder_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *dir = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *entry;

	if (!dir) {
		if (fd >= 0)
			close(fd);
		return;
	}
	while ((entry = readdir(dir)))
		if (strncmp(entry->d_name, PREFIX, strlen(PREFIX)) == 0)
			unlinkat(folder_fd, entry->d_name, 0);
	closedir(dir);
}

int temp_files_open(const char *folder, struct temp_files **ret, char *message, size_t bytes)
{
	struct temp_files *t = calloc(1, sizeof(*t));
	int err = -ENOMEM;

	if (!t)
		return refuse(folder, err, strerror(-err), message, bytes);
	if (mkdir(folder, S_IRWXU) && errno != EEXIST) {
		err = refuse(folder, -errno, strerror(errno), message, bytes);
		goto files;
	}
	t->fd = open(folder, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (t->fd < 0) {
		err = refuse(folder, -errno, strerror(errno), message, bytes);
		goto files;
	}
	err = check_folder(folder, t->fd, message, bytes);
	if (err)
		goto fd;
	t->folder = realpath(folder, NULL);
	if (!t->folder || strlen(t->folder) + 1 + NAME_BYTES > TEMP_PATH_MAX) {
		err = refuse(folder, -ENAMETOOLONG, strerror(ENAMETOOLONG), message, bytes);
		goto name;
	}
	remove_remains(t->fd);
	pthread_mutex_init(&t->lock, NULL);
	TAILQ_INIT(&t->files);
	*ret = t;
	return 0;

name:
	free(t->folder);
fd:
	close(t->fd);
files:
	free(t);
	return err;
}

/* --- files --- */

/* With the lock. */
static void drop(struct temp_files *t, struct temp_file *f)
{
	unlinkat(t->fd, f->name, 0);
	TAILQ_REMOVE(&t->files, f, link);
	t->stats.files--;
	t->stats.bytes -= f->bytes;
	free(f);
}

void temp_files_close(struct temp_files *t)
{
	struct temp_file *f;

	if (!t)
		return;
	while ((f = TAILQ_FIRST(&t->files)))
		drop(t, f);
	pthread_mutex_destroy(&t->lock);
	close(t->fd);
	free(t->folder);
	free(t);
}

static int choose_name(char name[NAME_BYTES])
{
	uint8_t secret[SECRET_BYTES];

	if (getrandom(secret, sizeof(secret), 0) != (ssize_t)sizeof(secret))
		return -EIO;
	char *p = name + sprintf(name, "%s", PREFIX);
	for (size_t i = 0; i < sizeof(secret); i++)
		p += sprintf(p, "%02x", secret[i]);
	return 0;
}

static int write_all(int fd, const uint8_t *data, size_t len)
{
	while (len > 0) {
		ssize_t n = write(fd, data, len);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			data += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

/* Makes room for it in the counts. */
static int reserve(struct temp_files *t, size_t len)
{
	LOCK_SCOPE(&t->lock);

	if (t->stats.files >= TEMP_FILES_MAX || t->stats.bytes + len > TEMP_BYTES_MAX)
		return -ENOSPC;
	t->stats.files++;
	t->stats.bytes += len;
	return 0;
}

static void give_back(struct temp_files *t, size_t len)
{
	LOCK_SCOPE(&t->lock);

	t->stats.files--;
	t->stats.bytes -= len;
}

static int write_file(struct temp_files *t, const char *name, const void *data, size_t len)
{
	int fd = openat(t->fd, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, S_IRUSR | S_IWUSR);

	if (fd < 0)
		return -errno;
	int err = write_all(fd, data, len);
	close(fd);
	if (err)
		unlinkat(t->fd, name, 0);
	return err;
}

static void list_file(struct temp_files *t, struct temp_file *f)
{
	LOCK_SCOPE(&t->lock);

	TAILQ_INSERT_TAIL(&t->files, f, link);
	t->stats.added++;
}

int temp_files_add(struct temp_files *t, const void *data, size_t len, char path[TEMP_PATH_MAX])
{
	struct temp_file *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	int err = choose_name(f->name);
	if (!err)
		err = reserve(t, len);
	if (err)
		goto file;
	err = write_file(t, f->name, data, len);
	if (err)
		goto room;
	f->bytes = len;
	f->made_ms = now_ms();
	snprintf(path, TEMP_PATH_MAX, "%s/%s", t->folder, f->name);
	list_file(t, f);
	return 0;

room:
	give_back(t, len);
file:
	free(f);
	return err;
}

/* With the lock. NULL: there is none. */
static struct temp_file *find_file(struct temp_files *t, const char *name)
{
	for (struct temp_file *f = TAILQ_FIRST(&t->files); f; f = TAILQ_NEXT(f, link))
		if (strcmp(f->name, name) == 0)
			return f;
	return NULL;
}

int temp_files_remove(struct temp_files *t, const char *path)
{
	size_t len = strlen(t->folder);

	if (strncmp(path, t->folder, len) != 0 || path[len] != '/')
		return -ENOENT;
	LOCK_SCOPE(&t->lock);
	struct temp_file *f = find_file(t, path + len + 1);
	if (!f)
		return -ENOENT;
	drop(t, f);
	t->stats.removed++;
	return 0;
}

void temp_files_expire(struct temp_files *t, int64_t age_ms)
{
	int64_t now = now_ms();
	struct temp_file *f;
	LOCK_SCOPE(&t->lock);

	while ((f = TAILQ_FIRST(&t->files)) && now - f->made_ms >= age_ms) {
		drop(t, f);
		t->stats.expired++;
	}
}

void temp_files_stats(struct temp_files *t, struct temp_stats *ret)
{
	LOCK_SCOPE(&t->lock);

	*ret = t->stats;
}
