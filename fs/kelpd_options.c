#include "fs/kelpd_options.h"

#include <errno.h>
#include <math.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "fs/optvalue.h"
#include "rdma/wire.h"

#define VOLUME_SERVER_PORT 8080

enum kelpd_kind {
	KIND_FLAG, /* bool */
	KIND_COMMAND, /* min is the command */
	KIND_UINT, /* unsigned, within min and max */
	KIND_BYTES, /* uint64_t, K M G T suffixes */
	KIND_MILLISECONDS, /* unsigned in ms, given in seconds */
	KIND_PATH, /* char *, made absolute */
	KIND_DIR, /* adds to dirs */
	KIND_LISTEN,
	KIND_SERVER,
};

struct kelpd_option {
	const char *name;
	const char *value; /* what --help shows, NULL for flags */
	char letter; /* 0: none */
	enum kelpd_kind kind;
	size_t offset; /* in struct kelpd_options */
	double min, max;
	const char *default_text; /* parsed into the field before the command line; NULL: zero */
	const char *help;
};

#define AT(field) offsetof(struct kelpd_options, field)

/* The order is that of --help. */
/* clang-format off */
static const struct kelpd_option table[] = {
	{ "dir", "DIR", 0, KIND_DIR, 0, 0, 0, NULL,
	  "a data directory of the volume server (its -dir); may be given several times" },
	{ "idx-dir", "DIR", 0, KIND_PATH, AT(idx_dir), 0, 0, NULL,
	  "where its index files are, if elsewhere (its -dir.idx)" },
	{ "listen", "ADDR[:PORT]", 0, KIND_LISTEN, 0, 0, 0, ":18515",
	  "address and port to listen on; all addresses if none is given" },
	{ "volume-server", "HOST:PORT", 0, KIND_SERVER, 0, 0, 0, NULL,
	  "without --dir: ask this volume server for its data directories" },
	{ "security", "FILE", 0, KIND_PATH, AT(security_toml), 0, 0, NULL,
	  "SeaweedFS's security.toml: the key that read tokens are signed with" },
	{ "max-connections", "N", 0, KIND_UINT, AT(connections_max), 1, 100000, "1024",
	  "further clients are refused, and told so" },
	{ "idle-timeout", "SECONDS", 0, KIND_MILLISECONDS, AT(idle_ms), 1000, 86400000, "300",
	  "a connection on which nothing comes for so long is closed" },
	{ "staging", "SIZE", 0, KIND_BYTES, AT(staging_bytes), 1024.0 * 1024, 1e13, "64M",
	  "most memory that answers may wait in, of all connections together" },
	{ "threads", "N", 0, KIND_UINT, AT(threads), 1, 16, "2",
	  "event threads" },
	{ "foreground", NULL, 'f', KIND_FLAG, AT(foreground), 0, 0, NULL,
	  "stay in the foreground; messages go to standard error" },
	{ "debug", NULL, 'd', KIND_FLAG, AT(debug), 0, 0, NULL,
	  "debug messages, in the foreground" },
	{ "help", NULL, 'h', KIND_COMMAND, 0, KELPD_HELP, 0, NULL,
	  "this text" },
	{ "version", NULL, 'V', KIND_COMMAND, 0, KELPD_VERSION, 0, NULL,
	  "the version, and what this kernel offers" },
};
/* clang-format on */

static const char usage[] = "kelpd --dir DIR [--dir DIR ...] [OPTION...]\n"
			    "       kelpd --volume-server HOST:PORT [OPTION...]";

static int fail(char *message, size_t bytes, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static int fail(char *message, size_t bytes, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	vsnprintf(message, bytes, format, ap);
	va_end(ap);
	return -EINVAL;
}

static int store_number(const struct kelpd_option *opt, const char *text, void *field)
{
	double v;
	int err = opt->kind == KIND_BYTES ? option_parse_bytes(text, &v)
					  : option_parse_number(text, &v);

	if (err)
		return err;
	if (opt->kind == KIND_MILLISECONDS)
		v *= 1000;
	if (v < opt->min || v > opt->max)
		return -ERANGE;
	if (opt->kind == KIND_UINT && v != floor(v))
		return -EINVAL;
	if (opt->kind == KIND_BYTES)
		*(uint64_t *)field = (uint64_t)v;
	else
		*(unsigned *)field = (unsigned)v;
	return 0;
}

/* Absolute, because a daemon changes its directory. */
static int store_path(const char *text, char **field)
{
	char *path, *cwd = NULL;

	if (!*text)
		return -EINVAL;
	if (text[0] != '/') {
		cwd = getcwd(NULL, 0);
		if (!cwd)
			return -errno;
	}
	int n = asprintf(&path, "%s%s%s", cwd ? cwd : "", cwd ? "/" : "", text);
	free(cwd);
	if (n < 0)
		return -ENOMEM;
	free(*field);
	*field = path;
	return 0;
}

/* ADDR, ADDR:PORT, :PORT, [V6]:PORT; "*" is all addresses. */
static int store_listen(const char *text, struct kelpd_options *o)
{
	char with_host[ENDPOINT_STR_MAX];
	bool all = text[0] == ':' || strcmp(text, "*") == 0 || strncmp(text, "*:", 2) == 0;
	struct endpoint e;

	if (all) {
		const char *port = strchr(text, ':');

		snprintf(with_host, sizeof(with_host), "all%s", port ? port : "");
		text = with_host;
	}
	if (strstr(text, "://") || endpoint_parse(text, strlen(text), WIRE_PORT, &e))
		return -EINVAL;
	char *host = all ? NULL : strdup(e.host);
	if (!all && !host)
		return -ENOMEM;
	free(o->listen_host);
	o->listen_host = host;
	o->listen_port = e.port;
	return 0;
}

/* text is NULL for flags. */
static int store(const struct kelpd_option *opt, const char *text, struct kelpd_options *o)
{
	void *field = (char *)o + opt->offset;

	switch (opt->kind) {
	case KIND_FLAG:
		*(bool *)field = true;
		return 0;
	case KIND_COMMAND:
		o->command = (enum kelpd_command)opt->min;
		return 0;
	case KIND_UINT:
	case KIND_BYTES:
	case KIND_MILLISECONDS:
		return store_number(opt, text, field);
	case KIND_PATH:
		return store_path(text, field);
	case KIND_DIR: {
		if (o->n_dirs == STORE_DIRS_MAX)
			return -E2BIG;
		int err = store_path(text, &o->dirs[o->n_dirs]);
		o->n_dirs += err == 0;
		return err;
	}
	case KIND_LISTEN:
		return store_listen(text, o);
	case KIND_SERVER:
		o->has_volume_server = true;
		return endpoint_parse(text, strlen(text), VOLUME_SERVER_PORT, &o->volume_server);
	}
	return -EINVAL;
}

/* "-x", "--name" or "--name=value"; *ret_value: behind the "=", or NULL. */
static const struct kelpd_option *find_option(const char *arg, const char **ret_value)
{
	const char *name = arg + 2, *equals = strchr(arg, '=');
	size_t len = equals ? (size_t)(equals - name) : strlen(arg + 1) - 1;

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		const struct kelpd_option *opt = &table[i];

		*ret_value = NULL;
		if (arg[1] != '-' && arg[1] == opt->letter && !arg[2])
			return opt;
		if (arg[1] != '-' || strlen(opt->name) != len || memcmp(opt->name, name, len) != 0)
			continue;
		*ret_value = equals ? equals + 1 : NULL;
		return opt;
	}
	return NULL;
}

static int parse_option(const char *arg, const char *next, bool *ret_took_next,
			struct kelpd_options *o, char *message, size_t bytes)
{
	const char *value = NULL;
	const struct kelpd_option *opt = arg[0] == '-' && arg[1] ? find_option(arg, &value) : NULL;

	*ret_took_next = false;
	if (strcmp(arg, "--dump-options=man") == 0) {
		o->command = KELPD_DUMP_MAN;
		return 0;
	}
	if (!opt)
		return fail(message, bytes, "unknown %s: %s\nusage: %s",
			    arg[0] == '-' ? "option" : "argument", arg, usage);
	if (!opt->value && value)
		return fail(message, bytes, "option --%s takes no value", opt->name);
	if (opt->value && !value) {
		value = next;
		*ret_took_next = true;
	}
	if (opt->value && !value)
		return fail(message, bytes, "option --%s: expected --%s %s", opt->name, opt->name,
			    opt->value);
	int err = store(opt, value, o);
	switch (err) {
	case 0:
	case -ENOMEM:
		return err;
	case -ERANGE:
		return fail(message, bytes, "option --%s: %s is out of range", opt->name, value);
	case -E2BIG:
		return fail(message, bytes, "option --%s: more than %d", opt->name, STORE_DIRS_MAX);
	default:
		return fail(message, bytes, "option --%s: expected %s, not %s", opt->name,
			    opt->value, value);
	}
}

static int set_defaults(struct kelpd_options *o)
{
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		int err = table[i].default_text ? store(&table[i], table[i].default_text, o) : 0;

		if (err)
			return err;
	}
	return 0;
}

static int parse(int argc, char *const argv[], struct kelpd_options *o, char *message, size_t bytes)
{
	int err = set_defaults(o);

	for (int i = 1; i < argc && !err; i++) {
		bool took_next;

		err = parse_option(argv[i], i + 1 < argc ? argv[i + 1] : NULL, &took_next, o,
				   message, bytes);
		i += took_next;
		if (!err && o->command != KELPD_SERVE)
			return 0;
	}
	if (err)
		return err;
	if (!o->n_dirs && !o->has_volume_server)
		return fail(message, bytes,
			    "the data directories of a volume server are needed\nusage: %s", usage);
	if (o->debug)
		o->foreground = true;
	return 0;
}

int kelpd_options_parse(int argc, char *const argv[], struct kelpd_options *ret, char *message,
			size_t bytes)
{
	struct kelpd_options o = { .command = KELPD_SERVE };

	message[0] = '\0';
	int err = parse(argc, argv, &o, message, bytes);
	if (err) {
		kelpd_options_free(&o);
		if (!message[0])
			snprintf(message, bytes, "%s", strerror(-err));
		return err;
	}
	*ret = o;
	return 0;
}

void kelpd_options_free(struct kelpd_options *o)
{
	for (size_t i = 0; i < o->n_dirs; i++)
		free(o->dirs[i]);
	free(o->idx_dir);
	free(o->listen_host);
	free(o->security_toml);
}

static void print_name(FILE *out, const struct kelpd_option *opt)
{
	char name[128];
	int n = 0;

	if (opt->letter)
		n = snprintf(name, sizeof(name), "-%c, ", opt->letter);
	snprintf(name + n, sizeof(name) - (size_t)n, "--%s%s%s", opt->name, opt->value ? " " : "",
		 opt->value ? opt->value : "");
	fprintf(out, "  %-30s %s", name, opt->help);
}

void kelpd_options_print_help(FILE *out)
{
	fprintf(out,
		"usage: %s\n\nServes the needles of a SeaweedFS volume server, straight from its "
		"volume files.\n\noptions:\n",
		usage);
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		print_name(out, &table[i]);
		if (table[i].default_text)
			fprintf(out, " (default %s)", table[i].default_text);
		fputc('\n', out);
	}
}

void kelpd_options_print_man(FILE *out)
{
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		const struct kelpd_option *opt = &table[i];

		fprintf(out, ".TP\n");
		if (opt->letter)
			fprintf(out, ".BR \\-%c \", \" \\-\\-", opt->letter);
		else
			fprintf(out, ".B \\-\\-");
		option_print_roff(out, opt->name);
		if (opt->value) {
			fprintf(out, " ");
			option_print_roff(out, opt->value);
		}
		fputc('\n', out);
		option_print_roff(out, opt->help);
		if (opt->default_text) {
			fprintf(out, " (default ");
			option_print_roff(out, opt->default_text);
			fputc(')', out);
		}
		fprintf(out, ".\n");
	}
}
