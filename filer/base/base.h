/* Small things every folder uses: time limits, scope clean-up, arithmetic that cannot overflow.
 *
 * Lowest layer of the project: includes nothing of it. Everything here is thread-safe. */
#ifndef KELP_BASE_H
#define KELP_BASE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/types.h>

#define KIB ((size_t)1 << 10)
#define MIB ((size_t)1 << 20)
#define GIB ((size_t)1 << 30)

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))

static inline uint64_t min_u64(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static inline uint64_t max_u64(uint64_t a, uint64_t b)
{
	return a > b ? a : b;
}

/* A point in CLOCK_MONOTONIC time by which something must be over. Passed by value: a callee that
 * wants less time makes its own with deadline_sooner(). */
struct deadline {
	int64_t at_ms;
};

/* CLOCK_MONOTONIC. */
int64_t now_ms(void);
int64_t now_ns(void);

struct deadline deadline_in_ms(int64_t ms);
struct deadline deadline_sooner(struct deadline d, int64_t ms_from_now);

/* Never negative: 0 when the deadline has passed. */
int64_t deadline_left_ms(struct deadline d);

static inline bool deadline_passed(struct deadline d)
{
	return deadline_left_ms(d) == 0;
}

/* Sleeps for ms, but not beyond the deadline. */
void sleep_ms(int64_t ms, struct deadline d);

/* ms, give or take a quarter: so that many that wait for the same thing do not come back at once. */
int64_t jitter_ms(int64_t ms);

/* A condition variable whose timed waits use CLOCK_MONOTONIC. Returns 0 or -errno. */
int cond_init_monotonic(pthread_cond_t *c);

/* Waits until signalled or until d. Returns 0 or -ETIMEDOUT; wakes spuriously as conditions do. */
int cond_wait_until(pthread_cond_t *c, pthread_mutex_t *m, struct deadline d);

/* Scope clean-up: for free() and for mutex scopes only. Anything with an order of its own to be
 * undone in uses goto labels named after the resource. */
static inline void cleanup_free_(void *p)
{
	free(*(void **)p);
}
#define CLEANUP_FREE __attribute__((cleanup(cleanup_free_)))

static inline pthread_mutex_t *mutex_scope_enter_(pthread_mutex_t *m)
{
	if (pthread_mutex_lock(m) != 0)
		abort();
	return m;
}

static inline void mutex_scope_leave_(pthread_mutex_t **m)
{
	if (pthread_mutex_unlock(*m) != 0)
		abort();
}
/* Holds m until the end of the enclosing block. */
/* NOLINTBEGIN(bugprone-macro-parentheses): a declaration cannot stand in any */
#define LOCK_SCOPE(m)                                                                              \
	__attribute__((cleanup(mutex_scope_leave_), unused))                                       \
	pthread_mutex_t *mutex_scope_ = mutex_scope_enter_(m)
/* NOLINTEND(bugprone-macro-parentheses) */

/* Reads until the end of the file or until bytes are there. Returns how many, or -errno. */
ssize_t read_up_to(int fd, void *buf, size_t bytes);
/* Likewise, from that offset on. */
ssize_t pread_up_to(int fd, void *buf, size_t bytes, uint64_t offset);

/* 64-bit FNV-1a over n bytes, continuing from h (start with HASH_SEED). Not for hostile keys that
 * choose a bucket: only for versions and names. */
#define HASH_SEED UINT64_C(0xcbf29ce484222325)
uint64_t hash_bytes(uint64_t h, const void *p, size_t n);

#endif
