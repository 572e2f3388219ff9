/* kelpctl serve: what its files share. */
#ifndef KELP_CTL_SERVE_H
#define KELP_CTL_SERVE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include <cjson/cJSON.h>

#include "fs/cluster.h"
#include "fs/ctl_options.h"
#include "fs/ctl_serve_read.h"
#include "fs/httpd.h"
#include "fs/latency.h"

struct scratch;
struct slab;
struct temp_files;

/* As X-Source has it. */
enum serve_source {
	SERVE_RDMA,
	SERVE_TCP,
	SERVE_HTTP,
	SERVE_SOURCES, /* how many there are */
};

#define SERVE_STATUS_MAX 600

struct serve_counters {
	atomic_uint_fast64_t by_status[SERVE_STATUS_MAX]; /* answers to /read */
	struct {
		atomic_uint_fast64_t reads, bytes; /* answers, and bytes of them that were sent */
		struct latency latency; /* until the answer could begin */
	} by_source[SERVE_SOURCES];
	atomic_uint_fast64_t broken_off; /* answers that were begun and could not be ended */
};

struct serve {
	const struct ctl_options *options;
	struct cluster cluster;
	struct slab *slab;
	struct scratch *scratch;
	struct serve_reader reader;
	struct temp_files *temp; /* NULL: none */
	bool has_device; /* an RDMA device of this machine is active, and may be used */
	int64_t start_s; /* since the epoch */
	atomic_uint active; /* reads under way */
	atomic_bool stopping;
	struct serve_counters counters;
};

const char *serve_source_name(enum serve_source s);

/* Routes of the server; arg is struct serve. */
void serve_answer_read(struct httpd_request *r, void *arg);
void serve_answer_cleanup(struct httpd_request *r, void *arg);
void serve_answer_health(struct httpd_request *r, void *arg);
void serve_answer_stats(struct httpd_request *r, void *arg);
void serve_answer_metrics(struct httpd_request *r, void *arg);

/* What /metrics has; NULL without memory. */
cJSON *serve_metrics_json(struct serve *s);
/* The table for docs/metrics.md. */
void serve_metrics_markdown(FILE *out);

#endif
