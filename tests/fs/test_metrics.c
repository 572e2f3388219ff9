/* Metrics as text: the same numbers in JSON and in Prometheus text, whatever the labels; and which bucket a
 * latency falls into. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "filer/base/base.h"
#include "fs/latency.h"
#include "fs/metrics.h"

struct snapshot {
	uint64_t plain;
	struct latency_counts latency;
};

static void labelled(struct metric_sink *s, const void *snapshot)
{
	(void)snapshot;
	metric_value(s, 1, (const char *[]){ "a", "x" });
	metric_value(s, UINT64_MAX, (const char *[]){ "a", "say \"hi\"\\\n" });
}

static void nothing(struct metric_sink *s, const void *snapshot)
{
	(void)s;
	(void)snapshot;
}

static void latency(struct metric_sink *s, const void *snapshot)
{
	metric_latency(s, &((const struct snapshot *)snapshot)->latency, metric_no_labels);
}

static const struct metric rows[] = {
	{ "plain_total", METRIC_COUNTER, "a plain one", offsetof(struct snapshot, plain) },
	{ "labelled", METRIC_GAUGE, "one with labels", 0, labelled, { "first", "second" } },
	{ "empty", METRIC_GAUGE, "one without values", 0, nothing, { "label" } },
	{ "wait_seconds", METRIC_HISTOGRAM, "a histogram", 0, latency },
};

static const struct metric_table table = { rows, ARRAY_LEN(rows) };

static struct snapshot make_snapshot(void)
{
	static struct latency l;
	struct snapshot s = { .plain = UINT64_C(9007199254740993) };

	l = (struct latency){ 0 };
	latency_add(&l, 8000);
	latency_add(&l, 8001);
	latency_add(&l, INT64_C(3600) * 1000000000);
	latency_read(&l, &s.latency);
	return s;
}

static void assert_says(const char *text, const char *line)
{
	if (!strstr(text, line))
		fail_msg("not there: %s\nin: %s", line, text);
}

static void prometheus_text_has_types_labels_and_cumulative_buckets(void **state)
{
	struct snapshot s = make_snapshot();
	char *text = metrics_prometheus_text(&table, &s);

	(void)state;
	assert_says(text, "# HELP plain_total a plain one\n# TYPE plain_total counter\n"
			  "plain_total 9007199254740993\n");
	assert_says(text, "labelled{first=\"a\",second=\"x\"} 1\n");
	assert_says(
		text,
		"labelled{first=\"a\",second=\"say \\\"hi\\\"\\\\\\n\"} 18446744073709551615\n");
	assert_says(text, "# TYPE wait_seconds histogram\nwait_seconds_bucket{le=\"8e-06\"} 1\n"
			  "wait_seconds_bucket{le=\"1.6e-05\"} 2\n");
	assert_says(text, "wait_seconds_bucket{le=\"16.777216\"} 2\n"
			  "wait_seconds_bucket{le=\"+Inf\"} 3\nwait_seconds_sum 3600.00002\n"
			  "wait_seconds_count 3\n");
	free(text);
}

static void json_nests_labels_and_keeps_all_bits(void **state)
{
	struct snapshot s = make_snapshot();
	char *text = metrics_json_text(&table, &s);
	cJSON *tree = cJSON_Parse(text);

	(void)state;
	assert_non_null(tree);
	assert_says(text, "9007199254740993");
	assert_says(text, "18446744073709551615");
	const cJSON *labels = cJSON_GetObjectItem(cJSON_GetObjectItem(tree, "labelled"), "a");
	assert_int_equal(cJSON_GetArraySize(labels), 2);
	assert_non_null(cJSON_GetObjectItem(labels, "say \"hi\"\\\n"));
	assert_true(cJSON_IsObject(cJSON_GetObjectItem(tree, "empty")));
	const cJSON *wait = cJSON_GetObjectItem(tree, "wait_seconds");
	assert_int_equal(cJSON_GetObjectItem(wait, "count")->valueint, 3);
	assert_int_equal(cJSON_GetArraySize(cJSON_GetObjectItem(wait, "buckets")), LATENCY_BOUNDS);
	cJSON_Delete(tree);
	free(text);
}

static void a_latency_at_a_bound_is_in_the_bucket_below_it(void **state)
{
	(void)state;
	assert_int_equal(latency_bucket(0), 0);
	for (size_t i = 0; i < LATENCY_BOUNDS; i++) {
		uint64_t bound_ns = LATENCY_BOUND_US(i) * 1000;

		assert_int_equal(latency_bucket(bound_ns), i);
		assert_int_equal(latency_bucket(bound_ns + 1), i + 1);
	}
	assert_int_equal(latency_bucket(INT64_MAX), LATENCY_BOUNDS);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(prometheus_text_has_types_labels_and_cumulative_buckets),
		cmocka_unit_test(json_nests_labels_and_keeps_all_bits),
		cmocka_unit_test(a_latency_at_a_bound_is_in_the_bucket_below_it),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
