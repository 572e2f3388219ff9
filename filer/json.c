#include "filer/json.h"

#include <errno.h>
#include <stdalign.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* First byte of a string that was an integer. UTF-8 has no such byte, so no honest string starts with
 * it, and one that does is no more than a string of digits. */
#define INTEGER_MARK '\xff'
/* Integers of so many digits may be beyond 2^53. */
#define LONG_INTEGER_DIGITS 16
#define DOUBLE_EXACT_MAX 9007199254740992.0

/* Memory that a tree is built in; bytes of it go in turn and never come back alone. */
struct arena {
	char *next;
	size_t left_bytes;
};

/* What cJSON takes its memory from in this thread, while it parses for json_parse(). NULL: the heap. */
static _Thread_local struct arena *parsing_into;

/* Behind the string at p, or the end where it is not closed; NULL: it has an escaped NUL. */
static const char *skip_string(const char *p, const char *end)
{
	for (p++; p < end && *p != '"'; p++) {
		if (*p != '\\')
			continue;
		if (end - p >= 6 && memcmp(p + 1, "u0000", 5) == 0)
			return NULL;
		p += p + 1 < end;
	}
	return p < end ? p + 1 : end;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static size_t number_length(const char *p, const char *end, bool *ret_integer)
{
	const char *q = p;

	*ret_integer = true;
	for (; q < end; q++) {
		if (is_digit(*q) || (q == p && *q == '-'))
			continue;
		if (*q != '+' && *q != '-' && *q != '.' && *q != 'e' && *q != 'E')
			break;
		*ret_integer = false;
	}
	return (size_t)(q - p);
}

static char *append(char *to, const char *from, const char *end)
{
	memcpy(to, from, (size_t)(end - from));
	return to + (end - from);
}

/* Copies the text, long integers as marked strings, and counts the values. */
static int mark_integers(const char *text, size_t len, char *out, size_t *ret_len,
			 size_t *ret_values)
{
	const char *p = text, *end = text + len, *copied = text;
	char *o = out;
	size_t values = 1;

	if (memchr(text, '\0', len))
		return -EPROTO;
	while (p < end) {
		if (*p == '"') {
			p = skip_string(p, end);
			if (!p)
				return -EPROTO;
		} else if (*p == '-' || is_digit(*p)) {
			bool integer;
			size_t n = number_length(p, end, &integer);

			if (integer && n >= LONG_INTEGER_DIGITS) {
				o = append(o, copied, p);
				*o++ = '"';
				*o++ = INTEGER_MARK;
				o = append(o, p, p + n);
				*o++ = '"';
				copied = p + n;
			}
			p += n;
		} else {
			values += *p == ',' || *p == '[' || *p == '{';
			p++;
		}
	}
	if (values > JSON_VALUES_MAX)
		return -EPROTO;
	o = append(o, copied, end);
	*o = '\0';
	*ret_len = (size_t)(o - out);
	*ret_values = values;
	return 0;
}

static void *arena_alloc(size_t n)
{
	struct arena *a = parsing_into;
	void *p;

	if (!a)
		return malloc(n);
	n = (n + alignof(max_align_t) - 1) & ~(alignof(max_align_t) - 1);
	if (n > a->left_bytes)
		return NULL;
	p = a->next;
	a->next += n;
	a->left_bytes -= n;
	return p;
}

static void arena_free(void *p)
{
	if (!parsing_into)
		free(p);
}

/* Before there is another thread that could use cJSON. */
__attribute__((constructor)) static void give_cjson_the_arena(void)
{
	cJSON_InitHooks(&(cJSON_Hooks){ .malloc_fn = arena_alloc, .free_fn = arena_free });
}

/* What cJSON may need for a text: a node for each value, its name and, where it is a string, that. */
static size_t tree_bytes(size_t values, size_t len)
{
	return values * (sizeof(cJSON) + 3 * alignof(max_align_t)) + len;
}

static int parse_marked(const char *marked, size_t len, size_t values, struct json *ret)
{
	struct arena a = { .left_bytes = tree_bytes(values, len) };
	struct json j = { .memory = malloc(a.left_bytes) };

	if (!j.memory)
		return -ENOMEM;
	a.next = j.memory;
	parsing_into = &a;
	/* The NUL counts, as cJSON looks at it to see that the text is over. */
	j.root = cJSON_ParseWithLengthOpts(marked, len + 1, NULL, true);
	parsing_into = NULL;
	if (!j.root) {
		json_free(&j);
		return -EPROTO;
	}
	*ret = j;
	return 0;
}

int json_parse(const char *text, size_t len, struct json *ret)
{
	size_t marked_len, values;
	char *marked;
	int err;

	if (len > SIZE_MAX / 2)
		return -EPROTO;
	/* A mark and two quotes for every LONG_INTEGER_DIGITS bytes at most. */
	marked = malloc(len + len / LONG_INTEGER_DIGITS * 3 + 4);
	if (!marked)
		return -ENOMEM;
	err = mark_integers(text, len, marked, &marked_len, &values);
	if (!err)
		err = parse_marked(marked, marked_len, values, ret);
	free(marked);
	return err;
}

void json_free(struct json *j)
{
	free(j->memory);
}

/* Splits an integer, of either form, into sign and magnitude. */
static int read_integer(const cJSON *v, bool *ret_negative, uint64_t *ret)
{
	const char *digits;
	char *end;

	if (cJSON_IsNumber(v)) {
		double d = v->valuedouble;

		if (!(d >= -DOUBLE_EXACT_MAX && d <= DOUBLE_EXACT_MAX) || d != (double)(int64_t)d)
			return -EPROTO;
		*ret_negative = d < 0;
		*ret = (uint64_t)(d < 0 ? -d : d);
		return 0;
	}
	if (!cJSON_IsString(v) || v->valuestring[0] != INTEGER_MARK)
		return -EPROTO;
	digits = v->valuestring + 1;
	*ret_negative = *digits == '-';
	digits += *ret_negative;
	if (!is_digit(*digits))
		return -EPROTO;
	errno = 0;
	*ret = strtoull(digits, &end, 10);
	return errno || *end ? -EPROTO : 0;
}

static int read_unsigned(const cJSON *v, uint64_t max, uint64_t *ret)
{
	bool negative;
	uint64_t u;

	if (read_integer(v, &negative, &u) || (negative && u != 0) || u > max)
		return -EPROTO;
	*ret = u;
	return 0;
}

static int read_signed(const cJSON *v, int64_t *ret)
{
	bool negative;
	uint64_t u;

	if (read_integer(v, &negative, &u) || u > (uint64_t)INT64_MAX + negative)
		return -EPROTO;
	*ret = negative ? (int64_t)(0 - u) : (int64_t)u;
	return 0;
}

static int read_member(const cJSON *v, enum json_type type, void *target)
{
	uint64_t u;

	switch (type) {
	case JSON_I64:
		return read_signed(v, target);
	case JSON_U64:
		return read_unsigned(v, UINT64_MAX, target);
	case JSON_U32:
		if (read_unsigned(v, UINT32_MAX, &u))
			return -EPROTO;
		*(uint32_t *)target = (uint32_t)u;
		return 0;
	case JSON_BOOL:
		if (!cJSON_IsBool(v))
			return -EPROTO;
		*(bool *)target = cJSON_IsTrue(v);
		return 0;
	case JSON_TEXT:
		if (!cJSON_IsString(v) || v->valuestring[0] == INTEGER_MARK)
			return -EPROTO;
		*(char **)target = v->valuestring;
		return 0;
	case JSON_OBJECT:
	case JSON_ARRAY:
		if (type == JSON_OBJECT ? !cJSON_IsObject(v) : !cJSON_IsArray(v))
			return -EPROTO;
		*(const cJSON **)target = v;
		return 0;
	}
	return -EPROTO;
}

/* Index of the field with that key, tried from `first` on; n when there is none. */
static size_t find_field(const struct json_field *fields, size_t n, size_t first, const char *key)
{
	for (size_t i = 0; i < n; i++) {
		size_t at = first + i < n ? first + i : first + i - n;

		/* most names are told apart by their first letter, at no cost of a call */
		if (fields[at].key[0] == key[0] && strcmp(fields[at].key, key) == 0)
			return at;
	}
	return n;
}

int json_read(const cJSON *object, const struct json_field *fields, size_t n, void *out)
{
	uint32_t seen = 0;
	size_t next = 0;
	const cJSON *v;

	if (!cJSON_IsObject(object) || n > JSON_FIELDS_MAX)
		return -EPROTO;
	cJSON_ArrayForEach(v, object)
	{
		size_t i = find_field(fields, n, next, v->string);

		if (i == n || cJSON_IsNull(v))
			continue;
		if (read_member(v, fields[i].type, (char *)out + fields[i].offset))
			return -EPROTO;
		seen |= UINT32_C(1) << i;
		next = i + 1;
	}
	for (size_t i = 0; i < n; i++) {
		if (fields[i].required && !(seen & UINT32_C(1) << i))
			return -EPROTO;
	}
	return 0;
}

#define NOT_BASE64 0xff

static uint8_t base64_value(char c)
{
	if (c >= 'A' && c <= 'Z')
		return (uint8_t)(c - 'A');
	if (c >= 'a' && c <= 'z')
		return (uint8_t)(c - 'a' + 26);
	if (c >= '0' && c <= '9')
		return (uint8_t)(c - '0' + 52);
	if (c == '+')
		return 62;
	return c == '/' ? 63 : NOT_BASE64;
}

int json_base64(char *text, size_t *ret_len)
{
	size_t len = strlen(text), pad = 0;
	uint8_t *out = (uint8_t *)text;
	uint32_t bits = 0;

	if (len % 4 != 0)
		return -EPROTO;
	while (pad < 2 && pad < len && text[len - 1 - pad] == '=')
		pad++;
	for (size_t i = 0; i < len - pad; i++) {
		if (base64_value(text[i]) == NOT_BASE64)
			return -EPROTO;
	}
	for (size_t i = 0; i < len; i++) {
		bits = bits << 6 | (i < len - pad ? base64_value(text[i]) : 0);
		if (i % 4 != 3)
			continue;
		*out++ = (uint8_t)(bits >> 16);
		*out++ = (uint8_t)(bits >> 8);
		*out++ = (uint8_t)bits;
	}
	*ret_len = len / 4 * 3 - pad;
	return 0;
}
