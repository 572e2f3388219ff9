/* A buddy allocator over one mapped memfd. What it knows of the pages lies outside of them: the
 * region is written to by devices and the kernel, and untouched pages cost nothing.
 *
 * Thread model: slab.lock guards everything but what is fixed by slab_new(). It is a leaf: nothing
 * is called with it held. The populating thread only makes pages present, whoever uses them. */
#include "cache/slab.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "filer/base/base.h"

/* Linux 5.14; not yet in the headers of Debian 12's libc. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

#define PAGE_BYTES SLAB_CLASS_MIN
#define RESERVED_PAGE_BYTES ((size_t)2 << 20)
#define ORDER_MAX 10u /* PAGE_BYTES << ORDER_MAX == SLAB_CLASS_MAX */
#define ORDERS (ORDER_MAX + 1)
#define SLAB_PAGES_MAX ((size_t)UINT32_MAX - 1)
#define NO_PAGE UINT32_MAX

static_assert(SLAB_CLASS_MAX % RESERVED_PAGE_BYTES == 0, "a region is whole huge pages");
static_assert(PAGE_BYTES << ORDER_MAX == SLAB_CLASS_MAX, "orders and classes do not match");

/* What page_tag says of the page that a buffer starts at, together with the buffer's order; other
 * pages are TAG_INSIDE. */
#define TAG_INSIDE 0u
#define TAG_FREE 0x40u
#define TAG_GRANTED 0x80u

struct page_link {
	uint32_t prev, next;
};

struct slab {
	/* fixed */
	int fd;
	uint8_t *base;
	size_t bytes;
	size_t page_bytes_in_use;
	bool populated;

	pthread_t populating; /* only for slab_populate_start() and slab_free() */
	bool populating_started;
	atomic_bool stop_populating;

	pthread_mutex_t lock;
	/* under lock */
	uint32_t free_head[ORDERS];
	struct page_link *links; /* per page, meaningful for heads of free buffers */
	uint8_t *tags; /* per page */
	size_t used_bytes;
	uint64_t failed;
};

static size_t order_bytes(unsigned order)
{
	return PAGE_BYTES << order;
}

static unsigned order_for(size_t bytes)
{
	unsigned order = 0;

	while (order_bytes(order) < bytes)
		order++;
	return order;
}

static void free_list_push(struct slab *s, uint32_t page, unsigned order)
{
	uint32_t head = s->free_head[order];

	s->links[page] = (struct page_link){ .prev = NO_PAGE, .next = head };
	if (head != NO_PAGE)
		s->links[head].prev = page;
	s->free_head[order] = page;
	s->tags[page] = (uint8_t)(TAG_FREE | order);
}

static void free_list_remove(struct slab *s, uint32_t page, unsigned order)
{
	struct page_link l = s->links[page];

	if (l.prev != NO_PAGE)
		s->links[l.prev].next = l.next;
	else
		s->free_head[order] = l.next;
	if (l.next != NO_PAGE)
		s->links[l.next].prev = l.prev;
	s->tags[page] = TAG_INSIDE;
}

static void free_lists_init(struct slab *s)
{
	for (unsigned i = 0; i < ORDERS; i++)
		s->free_head[i] = NO_PAGE;
	/* from the top down, so that low addresses are granted first */
	for (size_t at = s->bytes; at > 0; at -= SLAB_CLASS_MAX)
		free_list_push(s, (uint32_t)((at - SLAB_CLASS_MAX) / PAGE_BYTES), ORDER_MAX);
}

static bool read_small_file(const char *path, char *buf, size_t cap)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return false;
	ssize_t n = read(fd, buf, cap - 1);
	close(fd);
	if (n <= 0)
		return false;
	buf[n] = '\0';
	return true;
}

/* The size of the pages behind shared memory for which huge pages were asked by madvise(). */
static size_t shmem_page_bytes(void)
{
	char mode[128], size[32];

	if (!read_small_file("/sys/kernel/mm/transparent_hugepage/shmem_enabled", mode,
			     sizeof(mode)) ||
	    !read_small_file("/sys/kernel/mm/transparent_hugepage/hpage_pmd_size", size,
			     sizeof(size)))
		return PAGE_BYTES;
	if (strstr(mode, "[never]") || strstr(mode, "[deny]"))
		return PAGE_BYTES;
	unsigned long long bytes = strtoull(size, NULL, 10);
	return bytes >= PAGE_BYTES ? (size_t)bytes : PAGE_BYTES;
}

/* Maps fd at an address aligned to SLAB_CLASS_MAX, so that huge pages and buffers line up. */
static int map_aligned(int fd, size_t bytes, uint8_t **ret)
{
	size_t reserved = bytes + SLAB_CLASS_MAX;
	uint8_t *p = mmap(NULL, reserved, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			  -1, 0);

	if (p == MAP_FAILED)
		return -errno;
	size_t skip = -(uintptr_t)p & (SLAB_CLASS_MAX - 1);
	uint8_t *base = p + skip;

	if (mmap(base, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) ==
	    MAP_FAILED) {
		int err = -errno;
		munmap(p, reserved);
		return err;
	}
	if (skip)
		munmap(p, skip);
	munmap(base + bytes, SLAB_CLASS_MAX - skip);
	*ret = base;
	return 0;
}

/* flags: of memfd_create(), which pages it is made of. */
static int map_memfd(struct slab *s, unsigned flags)
{
	int err;

	s->fd = memfd_create("kelp-slab", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags);
	if (s->fd < 0)
		return -errno;
	/* the size is fixed for good: nobody who gets the descriptor can make us fault */
	if (ftruncate(s->fd, (off_t)s->bytes) < 0 ||
	    fcntl(s->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) {
		err = -errno;
		goto close_fd;
	}
	err = map_aligned(s->fd, s->bytes, &s->base);
	if (err)
		goto close_fd;
	return 0;

close_fd:
	close(s->fd);
	return err;
}

static void unmap_memfd(struct slab *s)
{
	munmap(s->base, s->bytes);
	close(s->fd);
}

/* Of the huge pages that the administrator has set aside (vm.nr_hugepages). Mapping fails where there are too
 * few; but what a control group allows, or a memory policy, shows only when pages are given, and a touch would
 * end the process then. So all are given here. */
static int map_reserved(struct slab *s)
{
	int err = map_memfd(s, MFD_HUGETLB | MFD_HUGE_2MB);

	if (err)
		return err;
	if (madvise(s->base, s->bytes, MADV_POPULATE_WRITE)) {
		err = -errno;
		unmap_memfd(s);
		return err;
	}
	s->page_bytes_in_use = RESERVED_PAGE_BYTES;
	s->populated = true;
	return 0;
}

static int map_region(struct slab *s, bool may_be_reserved)
{
	if (may_be_reserved && map_reserved(s) == 0)
		return 0;
	int err = map_memfd(s, 0);
	if (err)
		return err;
	s->page_bytes_in_use = PAGE_BYTES;
	if (madvise(s->base, s->bytes, MADV_HUGEPAGE) == 0)
		s->page_bytes_in_use = shmem_page_bytes();
	return 0;
}

static int new_slab(size_t bytes, bool may_be_reserved, struct slab **ret)
{
	if (bytes < SLAB_BYTES_MIN || bytes > SLAB_PAGES_MAX * PAGE_BYTES - SLAB_CLASS_MAX)
		return -EINVAL;
	bytes = slab_rounded_bytes(bytes);

	int err = -ENOMEM;
	struct slab *s = calloc(1, sizeof(*s));
	if (!s)
		return err;
	s->bytes = bytes;
	s->links = calloc(bytes / PAGE_BYTES, sizeof(*s->links));
	if (!s->links)
		goto free_slab;
	s->tags = calloc(bytes / PAGE_BYTES, sizeof(*s->tags));
	if (!s->tags)
		goto free_links;
	err = map_region(s, may_be_reserved);
	if (err)
		goto free_tags;
	pthread_mutex_init(&s->lock, NULL);
	free_lists_init(s);
	*ret = s;
	return 0;

free_tags:
	free(s->tags);
free_links:
	free(s->links);
free_slab:
	free(s);
	return err;
}

int slab_new(size_t bytes, struct slab **ret)
{
	return new_slab(bytes, true, ret);
}

int slab_new_ordinary(size_t bytes, struct slab **ret)
{
	return new_slab(bytes, false, ret);
}

/* In steps, so that it ends soon when it is told to. */
static void *populate(void *arg)
{
	struct slab *s = arg;

	for (size_t at = 0; at < s->bytes && !atomic_load(&s->stop_populating);
	     at += SLAB_CLASS_MAX)
		if (madvise(s->base + at, SLAB_CLASS_MAX, MADV_POPULATE_WRITE))
			break;
	return NULL;
}

int slab_populate_start(struct slab *s)
{
	if (s->populated)
		return 0;
	int err = s->populating_started ? EALREADY
					: pthread_create(&s->populating, NULL, populate, s);

	if (!err)
		s->populating_started = true;
	return -err;
}

void slab_free(struct slab *s)
{
	if (!s)
		return;
	assert(s->used_bytes == 0);
	atomic_store(&s->stop_populating, true);
	if (s->populating_started)
		pthread_join(s->populating, NULL);
	unmap_memfd(s);
	pthread_mutex_destroy(&s->lock);
	free(s->tags);
	free(s->links);
	free(s);
}

/* Takes a free buffer of exactly this order, splitting the smallest larger one. */
static uint32_t take_page(struct slab *s, unsigned order)
{
	unsigned from = order;

	while (from <= ORDER_MAX && s->free_head[from] == NO_PAGE)
		from++;
	if (from > ORDER_MAX)
		return NO_PAGE;
	uint32_t page = s->free_head[from];
	free_list_remove(s, page, from);
	while (from > order) {
		from--;
		free_list_push(s, page + (1u << from), from);
	}
	return page;
}

int slab_alloc(struct slab *s, size_t bytes, struct slab_buf *ret)
{
	if (bytes > SLAB_CLASS_MAX)
		return -E2BIG;
	unsigned order = order_for(bytes);

	LOCK_SCOPE(&s->lock);
	uint32_t page = take_page(s, order);
	if (page == NO_PAGE) {
		s->failed++;
		return -ENOMEM;
	}
	s->tags[page] = (uint8_t)(TAG_GRANTED | order);
	s->used_bytes += order_bytes(order);
	*ret = (struct slab_buf){ .ptr = s->base + (size_t)page * PAGE_BYTES,
				  .size = order_bytes(order) };
	return 0;
}

void slab_release(struct slab *s, struct slab_buf b)
{
	uint32_t page = (uint32_t)(slab_offset(s, b.ptr) / PAGE_BYTES);
	unsigned order = order_for(b.size);

	LOCK_SCOPE(&s->lock);
	assert(s->tags[page] == (TAG_GRANTED | order));
	s->tags[page] = TAG_INSIDE;
	s->used_bytes -= order_bytes(order);
	for (; order < ORDER_MAX; order++) {
		uint32_t buddy = page ^ (1u << order);

		if (s->tags[buddy] != (TAG_FREE | order))
			break;
		free_list_remove(s, buddy, order);
		page &= ~(1u << order);
	}
	free_list_push(s, page, order);
}

int slab_fd(const struct slab *s)
{
	return s->fd;
}

uint64_t slab_offset(const struct slab *s, const void *ptr)
{
	uint64_t offset = (uint64_t)((uintptr_t)ptr - (uintptr_t)s->base);

	assert(offset < s->bytes);
	return offset;
}

void slab_region(const struct slab *s, void **ret_base, size_t *ret_bytes)
{
	*ret_base = s->base;
	*ret_bytes = s->bytes;
}

void slab_stats(struct slab *s, struct slab_stats *ret)
{
	LOCK_SCOPE(&s->lock);
	*ret = (struct slab_stats){
		.total_bytes = s->bytes,
		.used_bytes = s->used_bytes,
		.huge_page_bytes = s->page_bytes_in_use,
		.failed = s->failed,
	};
}
