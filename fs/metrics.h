/* Metrics: one table of them says what each is, and where its value is in a snapshot; JSON, Prometheus
 * text and the page in docs/ are made from it. */
#ifndef KELP_METRICS_H
#define KELP_METRICS_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cjson/cJSON.h>

#include "fs/latency.h"

enum metric_type {
	METRIC_COUNTER,
	METRIC_GAUGE,
	METRIC_HISTOGRAM, /* of seconds */
};

#define METRIC_LABELS_MAX 3

struct metric_sink;

struct metric {
	const char *name;
	enum metric_type type;
	const char *help;
	size_t offset; /* of a uint64_t in the snapshot; without each */
	/* Of a metric with labels: gives each of its values to metric_value() or metric_latency(). */
	void (*each)(struct metric_sink *s, const void *snapshot);
	const char *labels[METRIC_LABELS_MAX]; /* their names */
};

struct metric_table {
	const struct metric *rows;
	size_t n;
};

/* For each: labels are the values of the row's labels, in order; metric_no_labels where it has none. */
void metric_value(struct metric_sink *s, uint64_t value, const char *const labels[]);
extern const char *const metric_no_labels[METRIC_LABELS_MAX];
void metric_latency(struct metric_sink *s, const struct latency_counts *l,
		    const char *const labels[]);

/* An each of rows with the label status: this process's completed work requests. */
void metric_rdma_completions(struct metric_sink *s, const void *snapshot);

/* All texts are malloced; NULL without memory.
 *
 * {"name": 1, "name with a label": {"its value": 1, ...}, ...}; histograms are {"count", "sum", "buckets":
 * [[bound in seconds, how many up to there], ...]}. */
cJSON *metrics_json(const struct metric_table *t, const void *snapshot);
char *metrics_json_text(const struct metric_table *t, const void *snapshot);

/* The text format 0.0.4. */
void metrics_prometheus(FILE *out, const struct metric_table *t, const void *snapshot);
char *metrics_prometheus_text(const struct metric_table *t, const void *snapshot);
#define METRICS_PROMETHEUS_TYPE "text/plain; version=0.0.4; charset=utf-8"

/* Memory of this process that is in RAM. */
uint64_t metrics_resident_bytes(void);

void metrics_markdown(FILE *out, const struct metric_table *t);

#endif
