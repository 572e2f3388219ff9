/* A loop around libcurl, to compare with: what does HTTP alone give, without a file system?
 *
 *   rawcurl whole|BYTES THREADS SECONDS < LIST
 *
 * LIST has a line "URL BYTES" for each chunk. whole: all of them once, shared out among the threads, whatever
 * SECONDS is; else random ranges of so many bytes for so long. Each thread has one kept connection. Prints
 * "BYTES READS SECONDS" of all threads.
 *
 * Threads: each works on a struct worker of its own; next_chunk is the only thing that they share. */
#include <curl/curl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHUNKS_MAX 100000
#define THREADS_MAX 64
#define NS_PER_S 1000000000LL

struct chunk {
	char url[256];
	uint64_t bytes;
};

struct job {
	struct chunk *chunks;
	size_t n_chunks;
	uint64_t range_bytes; /* 0: whole chunks */
	int64_t end_ns;
	atomic_size_t next_chunk;
};

struct worker {
	struct job *job;
	pthread_t thread;
	uint64_t random;
	uint64_t bytes, reads;
	bool failed;
};

static int64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * NS_PER_S + t.tv_nsec;
}

static uint64_t draw(struct worker *w, uint64_t below)
{
	w->random ^= w->random << 13;
	w->random ^= w->random >> 7;
	w->random ^= w->random << 17;
	return w->random % below;
}

static size_t take(char *data, size_t size, size_t n, void *arg)
{
	struct worker *w = arg;

	(void)data;
	w->bytes += size * n;
	return size * n;
}

/* The next chunk, and with ranges where in it; false when all is done. */
static bool choose(struct worker *w, const struct chunk **ret_chunk, uint64_t *ret_offset)
{
	struct job *j = w->job;

	if (!j->range_bytes) {
		size_t i = atomic_fetch_add(&j->next_chunk, 1);

		*ret_chunk = &j->chunks[i];
		return i < j->n_chunks;
	}
	*ret_chunk = &j->chunks[draw(w, j->n_chunks)];
	*ret_offset = draw(w, ((*ret_chunk)->bytes - j->range_bytes) / 4096 + 1) * 4096;
	return now_ns() < j->end_ns;
}

static void *work(void *arg)
{
	struct worker *w = arg;
	CURL *curl = curl_easy_init();
	const struct chunk *chunk;
	uint64_t offset = 0;
	char range[64];

	curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, take);
	curl_easy_setopt(curl, CURLOPT_WRITEDATA, w);
	curl_easy_setopt(curl, CURLOPT_FAILONERROR, 1L);
	curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(curl, CURLOPT_BUFFERSIZE, 512L * 1024);
	while (!w->failed && choose(w, &chunk, &offset)) {
		curl_easy_setopt(curl, CURLOPT_URL, chunk->url);
		if (w->job->range_bytes) {
			snprintf(range, sizeof(range), "%llu-%llu", (unsigned long long)offset,
				 (unsigned long long)(offset + w->job->range_bytes - 1));
			curl_easy_setopt(curl, CURLOPT_RANGE, range);
		}
		w->failed = curl_easy_perform(curl) != CURLE_OK;
		w->reads++;
	}
	curl_easy_cleanup(curl);
	return NULL;
}

static size_t read_list(struct chunk *chunks, uint64_t range_bytes)
{
	char line[300];
	size_t n = 0;

	while (n < CHUNKS_MAX && fgets(line, sizeof(line), stdin)) {
		char *space = strchr(line, ' ');

		if (!space || space - line >= (ptrdiff_t)sizeof(chunks[n].url))
			break;
		*space = '\0';
		memcpy(chunks[n].url, line, (size_t)(space - line) + 1);
		chunks[n].bytes = strtoull(space + 1, NULL, 10);
		if (chunks[n].bytes >= range_bytes)
			n++;
	}
	return n;
}

static int run(struct job *job, size_t threads, double seconds)
{
	struct worker workers[THREADS_MAX] = { 0 };
	uint64_t bytes = 0, reads = 0;
	bool failed = false;
	int64_t start_ns = now_ns();

	job->end_ns = start_ns + (int64_t)(seconds * NS_PER_S);
	for (size_t i = 0; i < threads; i++) {
		workers[i].job = job;
		workers[i].random = (i + 1) * UINT64_C(0x9e3779b97f4a7c15);
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]))
			return 1;
	}
	for (size_t i = 0; i < threads; i++) {
		pthread_join(workers[i].thread, NULL);
		bytes += workers[i].bytes;
		reads += workers[i].reads;
		failed |= workers[i].failed;
	}
	printf("%llu %llu %.6f\n", (unsigned long long)bytes, (unsigned long long)reads,
	       (double)(now_ns() - start_ns) / NS_PER_S);
	return failed;
}

int main(int argc, char **argv)
{
	struct job job = { 0 };
	int status = 1;

	if (argc != 4)
		return 2;
	size_t threads = strtoul(argv[2], NULL, 10);
	if (!threads || threads > THREADS_MAX)
		return 2;
	job.range_bytes = strcmp(argv[1], "whole") == 0 ? 0 : strtoull(argv[1], NULL, 10);
	job.chunks = calloc(CHUNKS_MAX, sizeof(*job.chunks));
	if (!job.chunks)
		return 1;
	job.n_chunks = read_list(job.chunks, job.range_bytes);
	curl_global_init(CURL_GLOBAL_ALL);
	if (job.n_chunks)
		status = run(&job, threads, strtod(argv[3], NULL));
	curl_global_cleanup();
	free(job.chunks);
	return status;
}
