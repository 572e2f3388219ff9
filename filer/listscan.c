#include "filer/listscan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Depths: of the object's members, and of the array's elements. */
#define MEMBER_DEPTH 1
#define ELEMENT_DEPTH 2

void listscan_init(struct listscan *s, const struct listscan_config *config)
{
	*s = (struct listscan){
		.config = *config,
		.place = SCAN_START,
		.element.max_bytes = config->element_max_bytes,
		.envelope.max_bytes = config->envelope_max_bytes,
	};
}

void listscan_free(struct listscan *s)
{
	free(s->element.data);
	free(s->envelope.data);
	s->element.data = NULL;
	s->envelope.data = NULL;
}

static bool is_space(char c)
{
	return c == ' ' || c == '\n' || c == '\t' || c == '\r';
}

/* Behind the string in which p lies, or end where the string goes on. */
static const char *skip_string(struct listscan *s, const char *p, const char *end)
{
	for (; p < end; p++) {
		if (s->escaped) {
			s->escaped = false;
		} else if (*p == '\\') {
			s->escaped = true;
		} else if (*p == '"') {
			s->in_string = false;
			return p + 1;
		}
	}
	return end;
}

/* Follows one byte outside of strings. */
static int track(struct listscan *s, char c)
{
	switch (c) {
	case '"':
		s->in_string = true;
		return 0;
	case '{':
	case '[':
		return ++s->depth > LISTSCAN_DEPTH_MAX ? -EPROTO : 0;
	case '}':
	case ']':
		s->depth--;
		return 0;
	default:
		return 0;
	}
}

static void key_extend(struct listscan *s, const char *p, size_t n)
{
	if (s->key_len + n > LISTSCAN_KEY_MAX) {
		s->key_len = LISTSCAN_KEY_MAX + 1;
		return;
	}
	memcpy(s->key + s->key_len, p, n);
	s->key_len += n;
}

static bool key_is_ours(const struct listscan *s)
{
	return s->after_colon && s->key_len == strlen(s->config.key) &&
	       memcmp(s->key, s->config.key, s->key_len) == 0;
}

/* Keeps the name of the member. The bytes of a string include the closing quote, if it came. */
static void envelope_string(struct listscan *s, const char *p, size_t n)
{
	if (s->depth == MEMBER_DEPTH && !s->after_colon)
		key_extend(s, p, n - (s->in_string ? 0 : 1));
}

/* One byte of the envelope outside of strings. Moves on to the array where that begins. */
static int envelope_byte(struct listscan *s, char c)
{
	if (s->depth == MEMBER_DEPTH) {
		if (c == ':') {
			s->after_colon = true;
		} else if (c == ',') {
			s->after_colon = false;
		} else if (c == '"' && !s->after_colon) {
			s->key_len = 0;
		} else if (c == '[' && key_is_ours(s)) {
			s->depth = ELEMENT_DEPTH;
			s->place = SCAN_FIRST;
			return 0;
		}
	}
	if (track(s, c))
		return -EPROTO;
	if (s->depth == 0)
		s->place = SCAN_END;
	return 0;
}

static int scan_envelope(struct listscan *s, const char **pp, const char *end)
{
	const char *start = *pp, *p = start;
	int err = 0;

	while (!err && p < end && s->place == SCAN_ENVELOPE) {
		if (s->in_string) {
			const char *q = skip_string(s, p, end);

			envelope_string(s, p, (size_t)(q - p));
			p = q;
		} else {
			err = envelope_byte(s, *p++);
		}
	}
	*pp = p;
	return err ? err
		   : http_body_append(&s->envelope, (const uint8_t *)start, (size_t)(p - start));
}

/* The element ends with the n bytes at p. */
static int element_done(struct listscan *s, const char *p, size_t n)
{
	int err;

	s->place = SCAN_AFTER;
	if (s->element.len > 0) {
		err = http_body_append(&s->element, (const uint8_t *)p, n);
		if (err)
			return err;
		p = (const char *)s->element.data;
		n = s->element.len;
		s->element.len = 0;
	}
	if (n > s->config.element_max_bytes)
		return -EMSGSIZE;
	return s->config.on_element(s->config.arg, p, n);
}

static int scan_element(struct listscan *s, const char **pp, const char *end)
{
	const char *start = *pp, *p = start;

	while (p < end) {
		if (s->in_string) {
			p = skip_string(s, p, end);
			continue;
		}
		if (s->depth == ELEMENT_DEPTH && (*p == ',' || *p == ']' || *p == '}')) {
			*pp = p;
			return element_done(s, start, (size_t)(p - start));
		}
		if (track(s, *p++))
			return -EPROTO;
	}
	*pp = p;
	return http_body_append(&s->element, (const uint8_t *)start, (size_t)(p - start));
}

/* Between elements. What ends the array belongs to the envelope again. */
static int scan_gap(struct listscan *s, const char **pp)
{
	char c = **pp;

	if (is_space(c)) {
		++*pp;
		return 0;
	}
	if (c == ']' && s->place != SCAN_NEXT) {
		s->place = SCAN_ENVELOPE;
		return 0;
	}
	if (c == ',' && s->place == SCAN_AFTER) {
		s->place = SCAN_NEXT;
		++*pp;
		return 0;
	}
	if (c == ',' || c == ']' || c == '}' || s->place == SCAN_AFTER)
		return -EPROTO;
	s->place = SCAN_ELEMENT;
	return 0;
}

/* Around the object: white space only. */
static int scan_outside(struct listscan *s, const char **pp)
{
	char c = **pp;

	if (is_space(c)) {
		++*pp;
		return 0;
	}
	if (c != '{' || s->place == SCAN_END)
		return -EPROTO;
	s->place = SCAN_ENVELOPE;
	return 0;
}

int listscan_push(struct listscan *s, const char *p, size_t n)
{
	const char *end = p + n;

	while (!s->failed && p < end) {
		switch (s->place) {
		case SCAN_START:
		case SCAN_END:
			s->failed = scan_outside(s, &p);
			break;
		case SCAN_ENVELOPE:
			s->failed = scan_envelope(s, &p, end);
			break;
		case SCAN_FIRST:
		case SCAN_NEXT:
		case SCAN_AFTER:
			s->failed = scan_gap(s, &p);
			break;
		case SCAN_ELEMENT:
			s->failed = scan_element(s, &p, end);
			break;
		}
	}
	return s->failed;
}

int listscan_finish(struct listscan *s, const char **ret_envelope, size_t *ret_len)
{
	if (s->failed)
		return s->failed;
	if (s->place != SCAN_END)
		return -EPROTO;
	*ret_envelope = (const char *)s->envelope.data;
	*ret_len = s->envelope.len;
	return 0;
}
