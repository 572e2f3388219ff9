#include "fs/ctl_histogram.h"

#include <math.h>

#include "filer/base/base.h"

#define STEP_BITS 5
_Static_assert(HISTOGRAM_STEPS == 1 << STEP_BITS, "");

/* Small values have buckets of their own; then each power of two is cut into equal steps. */
static size_t bucket_of(uint64_t value)
{
	if (value < HISTOGRAM_STEPS)
		return value;
	unsigned shift = 63 - (unsigned)__builtin_clzll(value) - STEP_BITS;
	return (size_t)(shift << STEP_BITS) + (value >> shift);
}

/* The greatest value that is in it. */
static uint64_t bucket_end(size_t bucket)
{
	if (bucket < HISTOGRAM_STEPS)
		return bucket;
	unsigned shift = (unsigned)(bucket >> STEP_BITS) - 1;
	uint64_t step = (bucket & (HISTOGRAM_STEPS - 1)) + HISTOGRAM_STEPS;
	return (step << shift) + ((UINT64_C(1) << shift) - 1);
}

_Static_assert(HISTOGRAM_BUCKETS == (size_t)(64 - STEP_BITS + 1) * HISTOGRAM_STEPS, "all 64 bits");

void histogram_add(struct histogram *h, uint64_t value)
{
	h->min = h->n ? min_u64(h->min, value) : value;
	h->max = max_u64(h->max, value);
	h->sum += (double)value;
	h->n++;
	h->buckets[bucket_of(value)]++;
}

void histogram_merge(struct histogram *h, const struct histogram *more)
{
	if (!more->n)
		return;
	h->min = h->n ? min_u64(h->min, more->min) : more->min;
	h->max = max_u64(h->max, more->max);
	h->sum += more->sum;
	h->n += more->n;
	for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++)
		h->buckets[i] += more->buckets[i];
}

uint64_t histogram_percentile(const struct histogram *h, double part)
{
	uint64_t rank = (uint64_t)ceil(part * (double)h->n), seen = 0;

	for (size_t i = 0; i < HISTOGRAM_BUCKETS; i++) {
		seen += h->buckets[i];
		if (seen && seen >= rank)
			return min_u64(bucket_end(i), h->max);
	}
	return 0;
}
