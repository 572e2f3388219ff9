/* Options, as "--name value" in the manner of GNU or as "name=value" in a list behind -o: a table of them
 * drives parsing, --help, the man page and what is said of the values in effect. The values go into
 * the fields of a structure. */
#ifndef KELP_OPTTABLE_H
#define KELP_OPTTABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum opt_kind {
	OPT_FLAG, /* bool */
	OPT_SET, /* int or enum, becomes min; takes no value */
	OPT_UINT, /* unsigned, within min and max; UINT_MAX stands for none given, shown as "auto" */
	OPT_BYTES, /* uint64_t, K M G T suffixes */
	OPT_SECONDS, /* double */
	OPT_MILLISECONDS, /* unsigned in ms, given in seconds */
	OPT_CHOICE, /* int or enum, the index of one of the words of value, which "|" separates */
	OPT_STRING, /* char *, owned, not empty */
	OPT_PATH, /* likewise, made absolute: a daemon changes its directory */
	OPT_OTHER, /* store() knows */
};

struct opt {
	const char *name;
	const char *value; /* what --help shows, NULL where none is taken */
	char letter; /* 0: none */
	enum opt_kind kind;
	size_t offset; /* in the target */
	double min, max; /* numbers, in the unit that is stored */
	const char *default_text; /* parsed into the field before the command line; NULL: zero */
	const char *help;
	/* Returns 0, -EINVAL, -ERANGE, -E2BIG (given too often) or -ENOMEM. */
	int (*store)(const char *text, void *target);
	unsigned scope; /* bits of the commands that take it; 0: all */
	/* Of OPT_OTHER: the value in effect, as far as it fits; NULL: none is shown. */
	void (*format)(const void *target, char *buf, size_t bytes);
};

struct opt_table {
	const struct opt *rows; /* the order is that of --help */
	size_t n;
	bool in_list; /* name=value, behind -o */
};

/* *field = a copy of text, which must not be empty; what was there is freed. Returns 0, -EINVAL or -ENOMEM. */
int opt_store_string(const char *text, char **field);

/* *field = text, made absolute. Returns 0, -EINVAL or -ENOMEM, or why there is no working directory. */
int opt_store_path(const char *text, char **field);

/* Stores the defaults. Returns 0 or what store() returned. */
int opt_defaults(const struct opt_table *t, void *target);

/* Parses arg: "-x", "--name" or "--name=value"; next is what follows it, or NULL. *ret_took_next: next
 * was its value. Returns 0, -ENOENT where no row of that scope fits, else -EINVAL or -ENOMEM with a
 * message. */
int opt_parse(const struct opt_table *t, unsigned scope, const char *arg, const char *next,
	      bool *ret_took_next, void *target, char *message, size_t bytes);

/* Likewise with one "name" or "name=value" of a list; *ret_row: which it was. */
int opt_assign(const struct opt_table *t, const char *text, void *target, size_t *ret_row,
	       char *message, size_t bytes);

/* The value in effect as text, which is cut if it does not fit. */
void opt_format(const struct opt *opt, const void *target, char *buf, size_t bytes);

/* The rows of that scope; those of every scope are left out where only is set. */
void opt_print_help(FILE *out, const struct opt_table *t, unsigned scope, bool only);
void opt_print_man(FILE *out, const struct opt_table *t, unsigned scope, bool only);

/* message = text; for parsers. Returns -EINVAL. */
int opt_fail(char *message, size_t bytes, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif
