#include "filer/base/base.h"

#include <errno.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_MS 1000000
#define NS_PER_S 1000000000
#define MS_PER_S 1000

int64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (int64_t)ts.tv_sec * NS_PER_S + ts.tv_nsec;
}

int64_t now_ms(void)
{
	return now_ns() / NS_PER_MS;
}

struct deadline deadline_in_ms(int64_t ms)
{
	return (struct deadline){ .at_ms = now_ms() + ms };
}

struct deadline deadline_sooner(struct deadline d, int64_t ms_from_now)
{
	struct deadline own = deadline_in_ms(ms_from_now);
	return own.at_ms < d.at_ms ? own : d;
}

int64_t deadline_left_ms(struct deadline d)
{
	int64_t left = d.at_ms - now_ms();
	return left > 0 ? left : 0;
}

static struct timespec timespec_of_ms(int64_t ms)
{
	return (struct timespec){ .tv_sec = ms / MS_PER_S, .tv_nsec = (ms % MS_PER_S) * NS_PER_MS };
}

void sleep_ms(int64_t ms, struct deadline d)
{
	int64_t left = deadline_left_ms(d);
	struct timespec ts = timespec_of_ms(ms < left ? ms : left);

	while (clock_nanosleep(CLOCK_MONOTONIC, 0, &ts, &ts) == EINTR)
		;
}

int64_t jitter_ms(int64_t ms)
{
	static _Thread_local uint64_t state;
	int64_t now = now_ns();

	/* The address tells threads apart that come at the same time. */
	state = hash_bytes(state ^ (uintptr_t)&state, &now, sizeof(now));
	return ms - ms / 4 + (int64_t)((state >> 32) % (uint64_t)(ms / 2 + 1));
}

int cond_init_monotonic(pthread_cond_t *c)
{
	pthread_condattr_t attr;
	int err = pthread_condattr_init(&attr);

	if (err)
		return -err;
	err = pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	if (!err)
		err = pthread_cond_init(c, &attr);
	pthread_condattr_destroy(&attr);
	return -err;
}

int cond_wait_until(pthread_cond_t *c, pthread_mutex_t *m, struct deadline d)
{
	struct timespec ts = timespec_of_ms(d.at_ms);

	return -pthread_cond_timedwait(c, m, &ts);
}

#define FNV_PRIME UINT64_C(0x100000001b3)

uint64_t hash_bytes(uint64_t h, const void *p, size_t n)
{
	const unsigned char *b = p;

	for (size_t i = 0; i < n; i++)
		h = (h ^ b[i]) * FNV_PRIME;
	return h;
}

/* offset NULL: from where the descriptor is, which need not be a file. */
static ssize_t read_all(int fd, void *buf, size_t bytes, const uint64_t *offset)
{
	size_t done = 0;

	while (done < bytes) {
		uint8_t *at = (uint8_t *)buf + done;
		ssize_t n = offset ? pread(fd, at, bytes - done, (off_t)(*offset + done))
				   : read(fd, at, bytes - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

ssize_t read_up_to(int fd, void *buf, size_t bytes)
{
	return read_all(fd, buf, bytes, NULL);
}

ssize_t pread_up_to(int fd, void *buf, size_t bytes, uint64_t offset)
{
	return read_all(fd, buf, bytes, &offset);
}
