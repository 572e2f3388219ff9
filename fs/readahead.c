#include "fs/readahead.h"

#include <string.h>

#include "filer/base/base.h"

#define SCORE_EXACT 2 /* the request goes on precisely where the last one ended */
#define SCORE_NEAR 1
#define SCORE_SURE 4
#define SCORE_MAX 16
/* A stream reads at least one byte in so many, or it is none. */
#define DENSITY 4
/* Requests elsewhere since a stream's last one, after which its window is halved. */
#define STREAM_IDLE_TICKS ((uint64_t)4 * READAHEAD_STREAMS)
/* A strided reader's next pieces. More would be a guess: each is fetched in whole blocks. */
#define STRIDE_DEPTH 2
#define STRIDES_TO_BELIEVE 3
#define STRIDE_SKIP_MAX 3
#define STRIDE_BYTES_MAX ((uint64_t)1 << 30)

void readahead_init(struct readahead *ra)
{
	memset(ra, 0, sizeof(*ra));
}

static uint64_t distance(uint64_t a, uint64_t b)
{
	return a > b ? a - b : b - a;
}

static uint64_t sub_or_zero(uint64_t a, uint64_t b)
{
	return a > b ? a - b : 0;
}

static uint64_t align_up(uint64_t x, uint64_t unit)
{
	return (x + unit - 1) / unit * unit;
}

/* How far from where it is expected a request may lie. The surer, the farther: a new stream is
 * anything at all, an established one has many requests under way. */
static uint64_t tolerance(const struct readahead_stream *s, uint64_t len)
{
	uint64_t near = min_u64(2 * max_u64(len, s->len), READAHEAD_START_BYTES);

	if (s->kind != STREAM_NEW && s->score >= 2 * SCORE_SURE)
		near = max_u64(near, s->window / 2);
	return min_u64(near, READAHEAD_TOLERANCE_BYTES);
}

/* How badly a request fits a stream: 0 precisely, UINT64_MAX not at all. */
static uint64_t misfit(const struct readahead_stream *s, uint64_t offset, uint64_t len)
{
	uint64_t forward = distance(offset, s->high);
	uint64_t backward = distance(offset + len, s->low);
	uint64_t d = UINT64_MAX;

	switch (s->kind) {
	case STREAM_UNUSED:
		return UINT64_MAX;
	case STREAM_NEW:
		d = min_u64(forward, backward);
		break;
	case STREAM_FORWARD:
		d = forward;
		break;
	case STREAM_BACKWARD:
		d = backward;
		break;
	case STREAM_STRIDED: {
		int64_t gone = (int64_t)(offset - s->low);

		if (len != s->len || gone % s->stride != 0 || gone / s->stride < 1 ||
		    gone / s->stride > STRIDE_SKIP_MAX)
			return UINT64_MAX;
		return (uint64_t)(gone / s->stride - 1);
	}
	}
	return d <= tolerance(s, len) ? d : UINT64_MAX;
}

static struct readahead_stream *best_stream(struct readahead *ra, uint64_t offset, uint64_t len)
{
	struct readahead_stream *best = NULL;
	uint64_t least = UINT64_MAX;

	for (size_t i = 0; i < READAHEAD_STREAMS; i++) {
		uint64_t m = misfit(&ra->streams[i], offset, len);

		if (m < least) {
			least = m;
			best = &ra->streams[i];
		}
	}
	return best;
}

/* The stream to give up for a new one: what foretold nothing, then the least recently used. */
static struct readahead_stream *worst_stream(struct readahead *ra)
{
	struct readahead_stream *worst = NULL;

	for (size_t i = 0; i < READAHEAD_STREAMS; i++) {
		struct readahead_stream *s = &ra->streams[i];
		bool idle = s->kind <= STREAM_NEW || ra->tick - s->used_at > STREAM_IDLE_TICKS;
		bool worst_idle = worst && (worst->kind <= STREAM_NEW ||
					    ra->tick - worst->used_at > STREAM_IDLE_TICKS);

		if (!worst || (idle && !worst_idle) ||
		    (idle == worst_idle && s->used_at < worst->used_at))
			worst = s;
	}
	return worst;
}

static void plan_add(struct readahead_plan *p, uint64_t from, uint64_t to)
{
	if (to > from && p->n_ranges < READAHEAD_RANGES_MAX)
		p->ranges[p->n_ranges++] = (struct readahead_range){ .offset = from,
								     .len = to - from };
}

/* The window doubles each time the reader gets to where the last doubling began, so that no more
 * is read ahead than about what was read. */
static void grow(struct readahead_stream *s, const struct readahead_limits *lim, bool arrived)
{
	if (s->window == 0)
		s->window = s->score >= SCORE_SURE ? READAHEAD_START_BYTES : READAHEAD_FIRST_BYTES;
	else if (arrived && s->score >= SCORE_SURE)
		s->window *= 2;
	else
		arrived = false;
	s->window = min_u64(s->window, lim->window_max);
	if (arrived || s->grow_at == 0)
		s->grow_at = s->ahead;
}

/* Small steps of the window are saved up, so that requests to servers are large. */
static bool step_is_worth_it(const struct readahead_stream *s, uint64_t step)
{
	return step >= min_u64(s->window / 4, 2 * MIB);
}

static uint64_t forward_target(const struct readahead_stream *s, const struct readahead_limits *lim)
{
	uint64_t end = s->high + s->window;

	if (end >= lim->file_bytes)
		return lim->file_bytes;
	if (s->window >= 4 * READAHEAD_UNIT_BYTES)
		return end / READAHEAD_UNIT_BYTES * READAHEAD_UNIT_BYTES;
	return min_u64(align_up(end, lim->block_bytes), lim->file_bytes);
}

static void plan_forward(struct readahead_stream *s, const struct readahead_limits *lim,
			 struct readahead_plan *p)
{
	s->ahead = max_u64(s->ahead, s->high);
	grow(s, lim, s->high >= s->grow_at);
	uint64_t target = forward_target(s, lim);

	if (target <= s->ahead ||
	    (target < lim->file_bytes && !step_is_worth_it(s, target - s->ahead)))
		return;
	plan_add(p, s->ahead, target);
	s->ahead = target;
}

static void plan_backward(struct readahead_stream *s, const struct readahead_limits *lim,
			  struct readahead_plan *p)
{
	s->ahead = min_u64(s->ahead, s->low);
	grow(s, lim, s->low <= s->grow_at);
	uint64_t target = sub_or_zero(s->low, s->window) / lim->block_bytes * lim->block_bytes;

	if (target >= s->ahead || (target > 0 && !step_is_worth_it(s, s->ahead - target)))
		return;
	/* the nearest first */
	uint64_t middle = s->ahead - (s->ahead - target) / 2;
	plan_add(p, middle, s->ahead);
	plan_add(p, target, middle);
	s->ahead = target;
}

/* Pieces are fetched in whole blocks: only where those are mostly what is wanted. */
static bool stride_is_dense(const struct readahead_stream *s, const struct readahead_limits *lim)
{
	return align_up(s->len, lim->block_bytes) <= DENSITY * s->len;
}

static void plan_strided(struct readahead_stream *s, const struct readahead_limits *lim,
			 struct readahead_plan *p)
{
	if (!stride_is_dense(s, lim) || s->len > lim->window_max ||
	    s->low > (uint64_t)INT64_MAX / 2)
		return;
	for (int i = 1; i <= STRIDE_DEPTH; i++) {
		int64_t at = (int64_t)s->low + i * s->stride;
		bool planned = s->stride > 0 ? at < (int64_t)s->ahead : at > (int64_t)s->ahead;

		if (at < 0 || (uint64_t)at >= lim->file_bytes || planned)
			continue;
		plan_add(p, (uint64_t)at, min_u64((uint64_t)at + s->len, lim->file_bytes));
		s->ahead = (uint64_t)(at + s->stride);
	}
}

static void turn(struct readahead_stream *s, enum stream_kind kind)
{
	s->kind = kind;
	s->window = 0;
	s->grow_at = 0;
	s->skipped = 0;
	s->stalled = 0;
	s->score = 0;
	s->first_at_zero = false;
	s->ahead = kind == STREAM_BACKWARD ? s->low : s->high;
}

static void add_score(struct readahead_stream *s, unsigned n)
{
	s->score = s->score + n < SCORE_MAX ? s->score + n : SCORE_MAX;
}

/* Weighs how far the frontier moved against what was asked for: a stream that skips too much, or that
 * asks again and again behind its frontier, is none. */
static void account(struct readahead_stream *s, uint64_t advance, uint64_t len)
{
	uint64_t limit = max_u64(tolerance(s, len), (uint64_t)2 * DENSITY * len);

	s->skipped = sub_or_zero(s->skipped + advance, DENSITY * len);
	s->stalled = sub_or_zero(s->stalled + len, advance);
	if (s->skipped > limit || s->stalled > limit)
		turn(s, STREAM_NEW);
}

static void go_forward(struct readahead_stream *s, uint64_t offset, uint64_t len)
{
	uint64_t end = offset + len, advance = sub_or_zero(end, s->high);

	if (advance > 0) {
		add_score(s, offset == s->high ? SCORE_EXACT : SCORE_NEAR);
		s->low = offset;
		s->high = end;
	}
	account(s, advance, len);
}

static void go_backward(struct readahead_stream *s, uint64_t offset, uint64_t len)
{
	uint64_t end = offset + len, advance = sub_or_zero(s->low, offset);

	if (advance > 0) {
		add_score(s, end == s->low ? SCORE_EXACT : SCORE_NEAR);
		s->low = offset;
		s->high = end;
	}
	account(s, advance, len);
}

/* The second request near a first one decides where the stream goes. */
static void take_direction(struct readahead_stream *s, uint64_t offset, uint64_t len)
{
	if (offset + len > s->high) {
		turn(s, STREAM_FORWARD);
		go_forward(s, offset, len);
	} else if (offset < s->low) {
		bool again = s->score > 0;

		/* once may be two requests that overtook each other */
		if (again) {
			turn(s, STREAM_BACKWARD);
			go_backward(s, offset, len);
		}
		s->low = offset;
		add_score(s, SCORE_NEAR);
	}
}

static void go_on(struct readahead_stream *s, uint64_t offset, uint64_t len)
{
	switch (s->kind) {
	case STREAM_UNUSED:
		break;
	case STREAM_NEW:
		take_direction(s, offset, len);
		break;
	case STREAM_FORWARD:
		go_forward(s, offset, len);
		break;
	case STREAM_BACKWARD:
		go_backward(s, offset, len);
		break;
	case STREAM_STRIDED:
		s->low = offset;
		s->high = offset + len;
		break;
	}
	s->len = len;
}

static uint64_t history_find(const struct readahead *ra, uint64_t offset, uint64_t len)
{
	for (size_t i = 0; i < READAHEAD_HISTORY; i++)
		if (ra->history[i].len == len && ra->history[i].offset == offset)
			return i;
	return READAHEAD_HISTORY;
}

/* Is this the last of several equal requests at equal distances? Returns the distance, or 0. */
static int64_t find_stride(const struct readahead *ra, uint64_t offset, uint64_t len)
{
	for (size_t i = 0; i < READAHEAD_HISTORY; i++) {
		uint64_t last = ra->history[i].offset;
		int64_t stride = (int64_t)(offset - last);
		int n = 1;

		if (ra->history[i].len != len || distance(offset, last) <= len ||
		    distance(offset, last) > STRIDE_BYTES_MAX)
			continue;
		while (n < STRIDES_TO_BELIEVE &&
		       history_find(ra, offset - (uint64_t)stride * (uint64_t)(n + 1), len) <
			       READAHEAD_HISTORY)
			n++;
		if (n == STRIDES_TO_BELIEVE)
			return stride;
	}
	return 0;
}

static struct readahead_stream *start_stream(struct readahead *ra, uint64_t offset, uint64_t len)
{
	struct readahead_stream *s = worst_stream(ra);
	int64_t stride = find_stride(ra, offset, len);

	*s = (struct readahead_stream){
		.kind = stride ? STREAM_STRIDED : STREAM_NEW,
		.low = offset,
		.high = offset + len,
		.len = len,
		.stride = stride,
	};
	s->ahead = s->high;
	if (stride)
		s->ahead = offset + (uint64_t)stride;
	if (offset == 0)
		s->kind = STREAM_FORWARD; /* most files are read from the start to the end */
	s->first_at_zero = offset == 0;
	ra->history[ra->history_next].offset = offset;
	ra->history[ra->history_next].len = len;
	ra->history_next = (ra->history_next + 1) % READAHEAD_HISTORY;
	return s;
}

static bool is_sequential(const struct readahead_stream *s)
{
	return (s->kind == STREAM_FORWARD || s->kind == STREAM_BACKWARD) &&
	       (s->score >= SCORE_SURE || s->first_at_zero);
}

static bool has_ended(const struct readahead_stream *s, const struct readahead_limits *lim)
{
	return s->kind == STREAM_BACKWARD ? s->low == 0 : s->high >= lim->file_bytes;
}

void readahead_note(struct readahead *ra, const struct readahead_limits *lim, uint64_t offset,
		    uint64_t len, struct readahead_plan *ret)
{
	struct readahead_stream *s = best_stream(ra, offset, len);

	ra->tick++;
	if (s) {
		if (ra->tick - s->used_at > STREAM_IDLE_TICKS)
			s->window /= 2;
		go_on(s, offset, len);
	} else {
		s = start_stream(ra, offset, len);
	}
	s->used_at = ra->tick;

	*ret = (struct readahead_plan){ .sequential = is_sequential(s) };
	if (lim->window_max == 0)
		return;
	if (s->kind == STREAM_STRIDED)
		plan_strided(s, lim, ret);
	else if (ret->sequential && s->kind == STREAM_FORWARD)
		plan_forward(s, lim, ret);
	else if (ret->sequential)
		plan_backward(s, lim, ret);
	if (has_ended(s, lim))
		s->window = 0;
}

unsigned readahead_active(const struct readahead *ra)
{
	unsigned n = 0;

	for (size_t i = 0; i < READAHEAD_STREAMS; i++)
		n += ra->streams[i].window > 0;
	return n;
}
