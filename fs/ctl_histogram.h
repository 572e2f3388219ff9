/* Latencies in buckets that are at most 1/32 wide of their value. Not thread-safe. */
#ifndef KELP_CTL_HISTOGRAM_H
#define KELP_CTL_HISTOGRAM_H

#include <stddef.h>
#include <stdint.h>

#define HISTOGRAM_STEPS 32 /* buckets between a power of two and the next */
#define HISTOGRAM_BUCKETS ((size_t)HISTOGRAM_STEPS * 60)

struct histogram {
	uint64_t buckets[HISTOGRAM_BUCKETS];
	uint64_t n;
	uint64_t min, max; /* exact; 0 where n is 0 */
	double sum;
};

void histogram_add(struct histogram *h, uint64_t value);
void histogram_merge(struct histogram *h, const struct histogram *more);

/* The least value that part (0 to 1) of the values do not exceed, rounded up to the end of its bucket
 * but never beyond max; 0 where there are none. */
uint64_t histogram_percentile(const struct histogram *h, double part);

#endif
