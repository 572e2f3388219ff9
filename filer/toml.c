#include "filer/toml.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "filer/base/base.h"

struct cursor {
	const char *p;
	const char *end; /* of the line */
};

struct path {
	char text[TOML_KEY_MAX];
	size_t len;
};

static bool at_end(const struct cursor *c)
{
	return c->p == c->end;
}

static bool take(struct cursor *c, char wanted)
{
	if (at_end(c) || *c->p != wanted)
		return false;
	c->p++;
	return true;
}

static void skip_blanks(struct cursor *c)
{
	while (!at_end(c) && (*c->p == ' ' || *c->p == '\t'))
		c->p++;
}

/* Nothing but blanks and a comment may be left. */
static bool at_end_of_line(struct cursor *c)
{
	skip_blanks(c);
	return at_end(c) || *c->p == '#';
}

static bool is_control(char c)
{
	return ((unsigned char)c < ' ' && c != '\t') || c == 0x7f;
}

static bool is_key_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '-' || c == '_';
}

static bool append(struct path *path, char c)
{
	if (path->len + 1 >= sizeof(path->text))
		return false;
	path->text[path->len++] = c;
	path->text[path->len] = '\0';
	return true;
}

/* "a.b.c", with blanks around the dots; goes behind what the path holds. */
static bool parse_key(struct cursor *c, struct path *path)
{
	do {
		skip_blanks(c);
		if (at_end(c) || !is_key_char(*c->p))
			return false;
		if (path->len > 0 && !append(path, '.'))
			return false;
		for (; !at_end(c) && is_key_char(*c->p); c->p++)
			if (!append(path, *c->p))
				return false;
		skip_blanks(c);
	} while (take(c, '.'));
	return true;
}

static bool put_byte(struct toml_value *v, unsigned char byte)
{
	if (byte == 0 || v->string_len + 1 >= sizeof(v->string))
		return false;
	v->string[v->string_len++] = (char)byte;
	v->string[v->string_len] = '\0';
	return true;
}

static bool put_utf8(struct toml_value *v, uint32_t code)
{
	if (code > 0x10ffff || (code >= 0xd800 && code <= 0xdfff))
		return false;
	if (code < 0x80)
		return put_byte(v, (unsigned char)code);
	if (code < 0x800)
		return put_byte(v, (unsigned char)(0xc0 | code >> 6)) &&
		       put_byte(v, (unsigned char)(0x80 | (code & 0x3f)));
	if (code < 0x10000)
		return put_byte(v, (unsigned char)(0xe0 | code >> 12)) &&
		       put_byte(v, (unsigned char)(0x80 | (code >> 6 & 0x3f))) &&
		       put_byte(v, (unsigned char)(0x80 | (code & 0x3f)));
	return put_byte(v, (unsigned char)(0xf0 | code >> 18)) &&
	       put_byte(v, (unsigned char)(0x80 | (code >> 12 & 0x3f))) &&
	       put_byte(v, (unsigned char)(0x80 | (code >> 6 & 0x3f))) &&
	       put_byte(v, (unsigned char)(0x80 | (code & 0x3f)));
}

static bool parse_code_point(struct cursor *c, unsigned digits, struct toml_value *v)
{
	static const char hex[] = "0123456789abcdef0123456789ABCDEF";
	uint32_t code = 0;

	for (unsigned i = 0; i < digits; i++) {
		const char *digit = at_end(c) ? NULL : memchr(hex, *c->p, sizeof(hex) - 1);
		if (!digit)
			return false;
		code = code << 4 | (uint32_t)((digit - hex) & 15);
		c->p++;
	}
	return put_utf8(v, code);
}

/* What follows a backslash. */
static bool parse_escape(struct cursor *c, struct toml_value *v)
{
	static const char names[] = "btnfr\"\\";
	static const char bytes[] = "\b\t\n\f\r\"\\";

	if (at_end(c))
		return false;
	char name = *c->p++;
	if (name == 'u')
		return parse_code_point(c, 4, v);
	if (name == 'U')
		return parse_code_point(c, 8, v);
	const char *known = memchr(names, name, sizeof(names) - 1);
	return known && put_byte(v, (unsigned char)bytes[known - names]);
}

static bool parse_string(struct cursor *c, char quote, struct toml_value *v)
{
	v->type = TOML_STRING;
	while (!at_end(c) && *c->p != quote) {
		char byte = *c->p++;
		if (byte == '\\' && quote == '"') {
			if (!parse_escape(c, v))
				return false;
		} else if (is_control(byte) || !put_byte(v, (unsigned char)byte)) {
			return false;
		}
	}
	return take(c, quote);
}

/* Decimal digits, with single underscores between them. Counts down, so that the least integer can
 * be written too. */
static bool parse_integer(struct cursor *c, struct toml_value *v)
{
	bool negative = take(c, '-');
	bool digit_before = false;
	int64_t value = 0;

	v->type = TOML_INTEGER;
	if (!negative)
		take(c, '+');
	for (; !at_end(c) && ((*c->p >= '0' && *c->p <= '9') || *c->p == '_'); c->p++) {
		if (*c->p == '_') {
			if (!digit_before)
				return false;
			digit_before = false;
			continue;
		}
		if (__builtin_mul_overflow(value, 10, &value) ||
		    __builtin_sub_overflow(value, *c->p - '0', &value))
			return false;
		digit_before = true;
	}
	if (!digit_before || (!negative && value == INT64_MIN))
		return false;
	v->integer = negative ? value : -value;
	return true;
}

static bool take_word(struct cursor *c, const char *word)
{
	size_t len = strlen(word);

	if ((size_t)(c->end - c->p) < len || memcmp(c->p, word, len) != 0)
		return false;
	c->p += len;
	return true;
}

static bool parse_value(struct cursor *c, struct toml_value *v)
{
	v->string_len = 0;
	v->string[0] = '\0';
	v->integer = 0;
	v->boolean = false;
	if (take(c, '"'))
		return parse_string(c, '"', v);
	if (take(c, '\''))
		return parse_string(c, '\'', v);
	v->type = TOML_BOOLEAN;
	v->boolean = take_word(c, "true");
	if (v->boolean || take_word(c, "false"))
		return true;
	return parse_integer(c, v);
}

static bool parse_section(struct cursor *c, struct path *section)
{
	section->len = 0;
	section->text[0] = '\0';
	return parse_key(c, section) && take(c, ']') && at_end_of_line(c);
}

static int parse_line(struct cursor *c, struct path *section, struct toml_value *v, toml_cb cb,
		      void *arg)
{
	struct path key = *section;

	if (at_end_of_line(c))
		return 0;
	if (take(c, '['))
		return parse_section(c, section) ? 0 : -EINVAL;
	if (!parse_key(c, &key) || !take(c, '='))
		return -EINVAL;
	skip_blanks(c);
	if (!parse_value(c, v) || !at_end_of_line(c))
		return -EINVAL;
	return cb(arg, key.text, v);
}

int toml_parse(const char *text, size_t len, toml_cb cb, void *arg, unsigned *ret_line)
{
	const char *end = text + len;
	struct path section = { .len = 0 };
	struct toml_value value;
	unsigned line = 0;
	int err = 0;

	while (!err && text < end) {
		const char *newline = memchr(text, '\n', (size_t)(end - text));
		struct cursor c = { .p = text, .end = newline ? newline : end };
		text = newline ? newline + 1 : end;
		if (c.end > c.p && c.end[-1] == '\r')
			c.end--;
		line++;
		err = parse_line(&c, &section, &value, cb, arg);
	}
	explicit_bzero(&value, sizeof(value));
	if (err)
		*ret_line = line;
	return err;
}

static int parse_open_file(int fd, toml_cb cb, void *arg, unsigned *ret_line)
{
	char *text = malloc(TOML_FILE_BYTES_MAX);

	if (!text)
		return -ENOMEM;
	ssize_t n = read_up_to(fd, text, TOML_FILE_BYTES_MAX);
	int err = n < 0 ? (int)n : 0;
	if (!err && (size_t)n == TOML_FILE_BYTES_MAX)
		err = -EFBIG;
	if (!err)
		err = toml_parse(text, (size_t)n, cb, arg, ret_line);
	if (n > 0)
		OPENSSL_cleanse(text, (size_t)n);
	free(text);
	return err;
}

int toml_parse_file(const char *path, toml_cb cb, void *arg, unsigned *ret_line)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	int err = parse_open_file(fd, cb, arg, ret_line);
	close(fd);
	return err;
}
