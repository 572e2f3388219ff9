/* The part of TOML that SeaweedFS's security.toml is written in: sections, keys (dotted or not) and
 * values that are strings of one line, integers, true or false; comments. Arrays, floats, dates,
 * tables in line, quoted keys and strings of several lines are errors. */
#ifndef KELP_TOML_H
#define KELP_TOML_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOML_KEY_MAX 256 /* bytes of section and key, with the dot between them */
#define TOML_STRING_MAX 4096

enum toml_type {
	TOML_STRING,
	TOML_INTEGER,
	TOML_BOOLEAN,
};

struct toml_value {
	enum toml_type type;
	char string[TOML_STRING_MAX]; /* NUL-terminated; holds no NUL */
	size_t string_len;
	int64_t integer;
	bool boolean;
};

/* Called for each "key = value", in order. key is "section.sub.key". Non-zero (a -errno) ends the
 * parse and becomes its result. The value is wiped afterwards. */
typedef int (*toml_cb)(void *arg, const char *key, const struct toml_value *value);

/* Returns 0, -EINVAL for malformed text, or what the callback returned; then *ret_line is the line
 * (from 1) to blame. */
int toml_parse(const char *text, size_t len, toml_cb cb, void *arg, unsigned *ret_line);

/* The same for a file of less than TOML_FILE_BYTES_MAX; its text, which may hold keys, is wiped. Also
 * -errno of the file, with *ret_line untouched. */
#define TOML_FILE_BYTES_MAX ((size_t)1 << 20)
int toml_parse_file(const char *path, toml_cb cb, void *arg, unsigned *ret_line);

#endif
