/* The header fields of an HTTP answer that matter here, and how each is read. Pure functions: hostile
 * text in, a struct of checked values out. */
#ifndef KELP_HTTP_HEAD_H
#define KELP_HTTP_HEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTP_HEADER_VALUE_MAX 512

/* What the answer's header said. Values that are absent, malformed or too long: "" or -1. */
struct http_head {
	int status;
	int64_t content_length;
	int64_t range_start; /* of Content-Range: bytes START-END/TOTAL */
	int64_t range_total;
	bool gzip; /* Content-Encoding: gzip */
	char content_type[128];
	char etag[128]; /* without quotes */
	char authorization[HTTP_HEADER_VALUE_MAX];
	char retry_after[32];
	int grpc_status; /* of the trailers, or of the header where there are none; -1: none seen */
	char grpc_message[128]; /* likewise, as sent (percent-encoded); "" */
};

/* Nothing is known yet. */
void http_head_reset(struct http_head *head);

/* Takes one field, its value without blanks around it; fields that nobody asks for are passed over.
 * Status and length are the caller's to set: they depend on more than one field. */
void http_head_take(struct http_head *head, const char *name, size_t name_len, const char *value,
		    size_t len);

/* Regardless of case. */
bool http_name_is(const char *name, size_t len, const char *wanted);

/* Reads the digits at *s, at least one, and moves *s behind them. False: none, or too large. */
bool http_parse_number(const char **s, const char *end, int64_t *ret);

#endif
