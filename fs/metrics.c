#include "fs/metrics.h"

#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

#include <cjson/cJSON.h>

#include "rdma/completions.h"

#define US_PER_S 1e6
#define NS_PER_S 1e9

/* Where the values of one row go: text, or a JSON object. */
struct metric_sink {
	const struct metric *row;
	FILE *out;
	cJSON *json;
};

const char *const metric_no_labels[METRIC_LABELS_MAX];

static const char *type_name(enum metric_type type)
{
	static const char *const names[] = { "counter", "gauge", "histogram" };

	return names[type];
}

static void each_value(struct metric_sink *s, const void *snapshot)
{
	if (s->row->each)
		s->row->each(s, snapshot);
	else
		metric_value(s, *(const uint64_t *)((const char *)snapshot + s->row->offset),
			     metric_no_labels);
}

/* --- Prometheus --- */

static void print_escaped(FILE *out, const char *text)
{
	for (; *text; text++) {
		if (*text == '\n') {
			fputs("\\n", out);
			continue;
		}
		if (*text == '"' || *text == '\\')
			fputc('\\', out);
		fputc(*text, out);
	}
}

/* le: the bound of a bucket, or NULL. */
static void print_labels(const struct metric_sink *s, const char *const labels[], const char *le)
{
	const char *before = "{";

	for (size_t i = 0; i < METRIC_LABELS_MAX && s->row->labels[i]; i++) {
		fprintf(s->out, "%s%s=\"", before, s->row->labels[i]);
		print_escaped(s->out, labels[i]);
		fputc('"', s->out);
		before = ",";
	}
	if (le) {
		fprintf(s->out, "%sle=\"%s\"", before, le);
		before = ",";
	}
	if (*before == ',')
		fputc('}', s->out);
}

static void print_latency(const struct metric_sink *s, const struct latency_counts *l,
			  const char *const labels[])
{
	uint64_t n = 0;

	for (size_t i = 0; i <= LATENCY_BOUNDS; i++) {
		char bound[32] = "+Inf";

		n += l->buckets[i];
		if (i < LATENCY_BOUNDS)
			snprintf(bound, sizeof(bound), "%.9g",
				 (double)LATENCY_BOUND_US(i) / US_PER_S);
		fprintf(s->out, "%s_bucket", s->row->name);
		print_labels(s, labels, bound);
		fprintf(s->out, " %" PRIu64 "\n", n);
	}
	fprintf(s->out, "%s_sum", s->row->name);
	print_labels(s, labels, NULL);
	fprintf(s->out, " %.9g\n%s_count", (double)l->sum_ns / NS_PER_S, s->row->name);
	print_labels(s, labels, NULL);
	fprintf(s->out, " %" PRIu64 "\n", n);
}

void metrics_prometheus(FILE *out, const struct metric_table *t, const void *snapshot)
{
	for (size_t i = 0; i < t->n; i++) {
		struct metric_sink s = { .row = &t->rows[i], .out = out };

		fprintf(out, "# HELP %s %s\n# TYPE %s %s\n", s.row->name, s.row->help, s.row->name,
			type_name(s.row->type));
		each_value(&s, snapshot);
	}
}

char *metrics_prometheus_text(const struct metric_table *t, const void *snapshot)
{
	char *text = NULL;
	size_t bytes;
	FILE *out = open_memstream(&text, &bytes);

	if (!out)
		return NULL;
	metrics_prometheus(out, t, snapshot);
	if (fclose(out) == 0)
		return text;
	free(text);
	return NULL;
}

/* --- JSON --- */

/* The object that the last label's value is a member of, and that member's name. */
static cJSON *find_parent(const struct metric_sink *s, const char *const labels[],
			  const char **ret_name)
{
	cJSON *parent = s->json;
	const char *name = s->row->name;

	for (size_t i = 0; i < METRIC_LABELS_MAX && s->row->labels[i]; i++) {
		cJSON *child = cJSON_GetObjectItemCaseSensitive(parent, name);

		parent = child ? child : cJSON_AddObjectToObject(parent, name);
		name = labels[i];
	}
	*ret_name = name;
	return parent;
}

/* cJSON keeps numbers as doubles; this keeps all 64 bits. */
static cJSON *make_number(uint64_t value)
{
	char text[24];

	snprintf(text, sizeof(text), "%" PRIu64, value);
	return cJSON_CreateRaw(text);
}

static cJSON *make_latency(const struct latency_counts *l)
{
	cJSON *tree = cJSON_CreateObject();
	cJSON *buckets = cJSON_CreateArray();
	uint64_t n = 0;

	for (size_t i = 0; i < LATENCY_BOUNDS; i++) {
		cJSON *bucket = cJSON_CreateArray();

		n += l->buckets[i];
		cJSON_AddItemToArray(bucket,
				     cJSON_CreateNumber((double)LATENCY_BOUND_US(i) / US_PER_S));
		cJSON_AddItemToArray(bucket, make_number(n));
		cJSON_AddItemToArray(buckets, bucket);
	}
	cJSON_AddItemToObject(tree, "count", make_number(l->n));
	cJSON_AddNumberToObject(tree, "sum", (double)l->sum_ns / NS_PER_S);
	cJSON_AddItemToObject(tree, "buckets", buckets);
	return tree;
}

cJSON *metrics_json(const struct metric_table *t, const void *snapshot)
{
	cJSON *tree = cJSON_CreateObject();

	for (size_t i = 0; tree && i < t->n; i++) {
		struct metric_sink s = { .row = &t->rows[i], .json = tree };

		/* One without values yet is there, too. */
		if (s.row->labels[0])
			cJSON_AddObjectToObject(tree, s.row->name);
		each_value(&s, snapshot);
	}
	return tree;
}

char *metrics_json_text(const struct metric_table *t, const void *snapshot)
{
	cJSON *tree = metrics_json(t, snapshot);
	char *text = tree ? cJSON_Print(tree) : NULL;

	cJSON_Delete(tree);
	return text;
}

/* --- values --- */

void metric_value(struct metric_sink *s, uint64_t value, const char *const labels[])
{
	const char *name;

	if (s->json) {
		cJSON *parent = find_parent(s, labels, &name);

		cJSON_AddItemToObject(parent, name, make_number(value));
		return;
	}
	fputs(s->row->name, s->out);
	print_labels(s, labels, NULL);
	fprintf(s->out, " %" PRIu64 "\n", value);
}

void metric_latency(struct metric_sink *s, const struct latency_counts *l,
		    const char *const labels[])
{
	const char *name;

	if (s->json) {
		cJSON *parent = find_parent(s, labels, &name);

		cJSON_AddItemToObject(parent, name, make_latency(l));
		return;
	}
	print_latency(s, l, labels);
}

/* --- the rest --- */

void metric_rdma_completions(struct metric_sink *s, const void *snapshot)
{
	struct completion_count counts[COMPLETION_STATUSES_MAX];
	size_t n = completion_counts(counts);

	(void)snapshot;
	for (size_t i = 0; i < n; i++)
		metric_value(s, counts[i].n, &counts[i].status);
}

uint64_t metrics_resident_bytes(void)
{
	uint64_t pages = 0;
	FILE *f = fopen("/proc/self/statm", "re");

	if (!f)
		return 0;
	if (fscanf(f, "%*u %" SCNu64, &pages) != 1) /* NOLINT(cert-err34-c): the kernel's */
		pages = 0;
	fclose(f);
	return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

void metrics_markdown(FILE *out, const struct metric_table *t)
{
	fprintf(out, "| metric | type | labels | meaning |\n|---|---|---|---|\n");
	for (size_t i = 0; i < t->n; i++) {
		const struct metric *m = &t->rows[i];

		fprintf(out, "| `%s` | %s |", m->name, type_name(m->type));
		for (size_t n = 0; n < METRIC_LABELS_MAX && m->labels[n]; n++)
			fprintf(out, "%s `%s`", n ? "," : "", m->labels[n]);
		fprintf(out, " | %s |\n", m->help);
	}
}
