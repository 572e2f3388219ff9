/* Takes a long JSON array apart while it streams in.
 *
 * The text is one object; one of its members, named by `key`, is an array whose elements are handed out
 * one by one as slices of text. What is left, with that array emptied, is the envelope, a small text to
 * parse afterwards. Memory is bounded by the two limits however long the text is, and an element that
 * lies within one piece of input is not copied.
 *
 * Only as much of JSON is checked as is needed to find the ends of things: element and envelope are to
 * be parsed by who gets them. Not thread-safe. */
#ifndef KELP_LISTSCAN_H
#define KELP_LISTSCAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "filer/http.h"

#define LISTSCAN_KEY_MAX 16 /* bytes of the key */
#define LISTSCAN_DEPTH_MAX 1000 /* of brackets, as cJSON has it; deeper: -EPROTO */

struct listscan_config {
	const char *key; /* must outlive the scan */
	size_t element_max_bytes;
	size_t envelope_max_bytes;
	/* One element, valid during the call. Non-zero ends the scan and becomes its result. */
	int (*on_element)(void *arg, const char *json, size_t len);
	void *arg;
};

enum listscan_place {
	SCAN_START, /* before the object */
	SCAN_ENVELOPE, /* in the object, but not in the array */
	SCAN_FIRST, /* in the array: an element or its end */
	SCAN_NEXT, /* behind a comma: an element */
	SCAN_ELEMENT, /* in an element */
	SCAN_AFTER, /* behind an element: a comma or the end */
	SCAN_END, /* behind the object */
};

/* Private to listscan.c. */
struct listscan {
	struct listscan_config config;
	enum listscan_place place;
	uint32_t depth; /* of open brackets, of any kind */
	bool in_string;
	bool escaped; /* in_string: the last byte was a backslash */
	/* SCAN_ENVELOPE, depth 1: the name of the present member, and whether its colon has come. */
	char key[LISTSCAN_KEY_MAX];
	size_t key_len; /* more than LISTSCAN_KEY_MAX: too long to be ours */
	bool after_colon;
	int failed; /* the -errno that ended the scan */
	struct http_body element; /* the part of the element that came in earlier pieces */
	struct http_body envelope;
};

void listscan_init(struct listscan *s, const struct listscan_config *config);

/* Takes the next piece of the text. Returns 0; -EPROTO: no such object; -EMSGSIZE: beyond a limit;
 * -ENOMEM; or what on_element returned. After a failure every further call gives the same. */
int listscan_push(struct listscan *s, const char *p, size_t n);

/* No more input. Returns 0 and the envelope, valid until listscan_free(), or -EPROTO: it ended early. */
int listscan_finish(struct listscan *s, const char **ret_envelope, size_t *ret_len);

void listscan_free(struct listscan *s);

#endif
