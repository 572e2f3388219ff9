/* Latencies for monitoring: few buckets with fixed bounds, which many threads add to and which can be
 * scraped. (kelpctl bench, which wants percentiles of one run exactly, has fs/ctl_histogram.h.) */
#ifndef KELP_LATENCY_H
#define KELP_LATENCY_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#define LATENCY_BOUNDS 22
/* Bound i in microseconds, inclusive: 8 us, 16 us, ... 16.8 s. */
#define LATENCY_FIRST_LOG2 3
#define LATENCY_BOUND_US(i) (UINT64_C(1) << ((i) + LATENCY_FIRST_LOG2))

/* Added to by any thread, without order. */
struct latency {
	atomic_uint_fast64_t buckets[LATENCY_BOUNDS + 1]; /* the last: beyond all bounds */
	atomic_uint_fast64_t sum_ns;
};

struct latency_counts {
	uint64_t buckets[LATENCY_BOUNDS + 1];
	uint64_t n;
	uint64_t sum_ns;
};

static inline size_t latency_bucket(uint64_t ns)
{
	uint64_t us = (ns + 999) / 1000; /* a bound is in the bucket below it */
	size_t i = us > 1 ? 64 - (size_t)__builtin_clzll(us - 1) : 0;

	i = i > LATENCY_FIRST_LOG2 ? i - LATENCY_FIRST_LOG2 : 0;
	return i < LATENCY_BOUNDS ? i : LATENCY_BOUNDS;
}

static inline void latency_add(struct latency *l, int64_t ns)
{
	uint64_t value = ns > 0 ? (uint64_t)ns : 0;

	atomic_fetch_add_explicit(&l->buckets[latency_bucket(value)], 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&l->sum_ns, value, memory_order_relaxed);
}

static inline void latency_read(struct latency *l, struct latency_counts *ret)
{
	ret->n = 0;
	for (size_t i = 0; i <= LATENCY_BOUNDS; i++) {
		ret->buckets[i] = atomic_load_explicit(&l->buckets[i], memory_order_relaxed);
		ret->n += ret->buckets[i];
	}
	ret->sum_ns = atomic_load_explicit(&l->sum_ns, memory_order_relaxed);
}

#endif
