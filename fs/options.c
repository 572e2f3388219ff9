#include "fs/options.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "fs/opttable.h"
#include "fs/optvalue.h"
#include "fs/reader.h"

enum option_kind {
	KIND_FLAG, /* bool */
	KIND_UINT, /* unsigned, within min and max */
	KIND_BYTES, /* uint64_t, K M G T suffixes */
	KIND_SECONDS, /* double */
	KIND_MILLISECONDS, /* unsigned in ms, given in seconds */
	KIND_CHOICE, /* int, index into choices */
	KIND_STRING, /* char * */
	KIND_MASTER, /* adds to masters */
	KIND_UID_MAP, /* adds to uid_maps */
	KIND_GID_MAP,
};

struct option {
	const char *name;
	const char *value; /* what --help shows after "=", NULL for flags */
	enum option_kind kind;
	size_t offset; /* in struct options */
	double min, max; /* numbers, in the unit that is stored */
	const char *choices[4];
	const char *default_text; /* parsed into the field before the command line; NULL: zero */
	const char *help;
};

#define AT(field) offsetof(struct options, field)

/* The order is that of --help. */
/* clang-format off */
static const struct option table[] = {
	{ "attr_timeout", "SECONDS", KIND_SECONDS, AT(attr_timeout_s), 0, 31536000, { 0 }, "1",
	  "how long the kernel may use a file's attributes without asking again" },
	{ "entry_timeout", "SECONDS", KIND_SECONDS, AT(entry_timeout_s), 0, 31536000, { 0 }, "1",
	  "how long the kernel may use a name without asking again" },
	{ "negative_timeout", "SECONDS", KIND_SECONDS, AT(negative_timeout_s), 0, 31536000, { 0 }, "0",
	  "how long a name that does not exist is remembered" },
	{ "timeout", "SECONDS", KIND_MILLISECONDS, AT(timeout_ms), 100, 600000, { 0 }, "10",
	  "longest that one request may take, with all retries, before it fails" },
	{ "connect_timeout", "SECONDS", KIND_MILLISECONDS, AT(connect_timeout_ms), 10, 60000, { 0 }, "2",
	  "longest wait for a connection to one server" },
	{ "stall_timeout", "SECONDS", KIND_MILLISECONDS, AT(stall_timeout_ms), 1000, 60000, { 0 }, "3",
	  "a server that sends nothing for so long is given up" },
	{ "master", "HOST:PORT", KIND_MASTER, 0, 0, 0, { 0 }, NULL,
	  "a master of the cluster; may be given several times (asked of the filer otherwise)" },
	{ "volume_access", "direct|public|proxy", KIND_CHOICE, AT(volume_access), 0, 0, { "direct", "public", "proxy" }, "direct",
	  "reach volume servers by their url, by their publicUrl, or through the filer only" },
	{ "security", "FILE", KIND_STRING, AT(security_toml), 0, 0, { 0 }, NULL,
	  "SeaweedFS's security.toml: read keys and client certificate" },
	{ "tls_ca", "FILE", KIND_STRING, AT(tls_ca), 0, 0, { 0 }, NULL,
	  "CA certificate of the servers (PEM), for https:// filers" },
	{ "tls_cert", "FILE", KIND_STRING, AT(tls_cert), 0, 0, { 0 }, NULL,
	  "client certificate (PEM)" },
	{ "tls_key", "FILE", KIND_STRING, AT(tls_key), 0, 0, { 0 }, NULL,
	  "private key of the client certificate (PEM)" },
	{ "verify", "off|md5", KIND_CHOICE, AT(verify), 0, 0, { "off", "md5" }, "off",
	  "compare whole decoded chunks with the MD5 of their entry" },
	{ "agent", "off|auto|require", KIND_CHOICE, AT(agent), 0, 0, { "off", "auto", "require" }, "auto",
	  "read from kelpd beside a volume server where there is one; require: from nowhere else" },
	{ "agent_port", "N", KIND_UINT, AT(agent_port), 1, 65535, { 0 }, "18515",
	  "where kelpd listens, on each volume server's host" },
	{ "rdma", "off|auto|require", KIND_CHOICE, AT(rdma), 0, 0, { "off", "auto", "require" }, "auto",
	  "read from kelpd over RDMA where both sides have it; require: in no other way" },
	{ "rdma_device", "NAME", KIND_STRING, AT(rdma_device), 0, 0, { 0 }, NULL,
	  "use this RDMA device only; default: the one that leads to the agent" },
	{ "rdma_tos", "N", KIND_UINT, AT(rdma_tos), 0, RDMA_TOS_SYSTEM, { 0 }, "256",
	  "type of service of RDMA packets (DSCP * 4); 256: the system's" },
	{ "map_uid", "LOCAL:FILER", KIND_UID_MAP, 0, 0, 0, { 0 }, NULL,
	  "show the filer's user FILER as LOCAL; may be given several times" },
	{ "map_gid", "LOCAL:FILER", KIND_GID_MAP, 0, 0, 0, { 0 }, NULL,
	  "show the filer's group FILER as LOCAL; may be given several times" },
	{ "system_entries", NULL, KIND_FLAG, AT(system_entries), 0, 0, { 0 }, NULL,
	  "show SeaweedFS's own /topics and /etc" },
	{ "list_page", "N", KIND_UINT, AT(list_page), 1, FILER_PAGE_MAX, { 0 }, "1024",
	  "entries asked for in one request of a listing" },
	{ "slab", "SIZE", KIND_BYTES, AT(slab_bytes), 8.0 * 1024 * 1024, 1e15, { 0 }, "256M",
	  "memory for file data: the block cache and all reads under way" },
	{ "readahead", "SIZE", KIND_BYTES, AT(readahead_bytes), 0, 1e12, { 0 }, "16M",
	  "most that is read ahead of one sequential reader; 0 turns it off" },
	{ "prefetch_threads", "N", KIND_UINT, AT(prefetch_threads), 1, 256, { 0 }, "8",
	  "requests for readahead under way at once" },
	{ "threads", "N", KIND_UINT, AT(threads), 1, 1024, { 0 }, "16",
	  "requests of the kernel worked on at once" },
	{ "max_read", "SIZE", KIND_BYTES, AT(max_read_bytes), 4096, (double)READ_BYTES_MAX, { 0 }, "1M",
	  "largest read that the kernel asks for in one request" },
	{ "max_background", "N", KIND_UINT, AT(max_background), 1, 65535, { 0 }, "64",
	  "readahead requests that the kernel keeps under way" },
	{ "readahead_kb", "N", KIND_UINT, AT(readahead_kb), 0, 1048576, { 0 }, NULL,
	  "the kernel's own readahead for this mount; set to 1024 where permitted if not given" },
	{ "splice", "on|off|auto", KIND_CHOICE, AT(splice), 0, 0, { "off", "on", "auto" }, "auto",
	  "hand data to the kernel by splice instead of a copy; auto: what measured better" },
	{ "clone_fd", NULL, KIND_FLAG, AT(clone_fd), 0, 0, { 0 }, NULL,
	  "a device descriptor of its own for each thread" },
	{ "direct_io", NULL, KIND_FLAG, AT(direct_io), 0, 0, { 0 }, NULL,
	  "bypass the kernel's page cache" },
	{ "nonempty", NULL, KIND_FLAG, AT(nonempty), 0, 0, { 0 }, NULL,
	  "mount over a directory that is not empty" },
	{ "log", "auto|stderr|syslog", KIND_CHOICE, AT(log), 0, 0, { "auto", "stderr", "syslog" }, "auto",
	  "where messages go; auto: stderr in the foreground, else syslog" },
};
/* clang-format on */

_Static_assert(ARRAY_LEN(table) <= 64, "struct options.given has a bit for each");

/* Options of mount(8) and libfuse that are handed on. */
static const char *const passed_on[] = {
	"allow_other", "allow_root",  "auto_unmount", "fsname=", "subtype=", "ro",
	"dev",         "nodev",       "suid",         "nosuid",  "exec",     "noexec",
	"atime",       "noatime",     "sync",         "async",   "dirsync",  "context=",
	"fscontext=",  "defcontext=", "rootcontext=",
};

/* Options that say something to mount(8) or to init, not to us. rw is what mount(8) adds by itself;
 * the mount is read-only all the same. */
static const char *const ignored[] = {
	"defaults",      "rw",
	"auto",          "noauto",
	"user",          "nouser",
	"users",         "owner",
	"group",         "nofail",
	"_netdev",       "x-",
	"comment=",      "default_permissions",
	"relatime",      "norelatime",
	"nostrictatime", "strictatime",
	"nolazytime",    "diratime",
	"nodiratime",
};

static const struct {
	const char *flag, *help;
} flags[] = {
	{ "-o OPT[,OPT...]", "mount options, see below" },
	{ "-f", "stay in the foreground" },
	{ "-d", "debug messages, in the foreground" },
	{ "-h, --help", "this text" },
	{ "-V, --version", "version, and what it was built with" },
};

static const char usage[] = "kelpfs FILER[,FILER...][/PATH] MOUNTPOINT [-o OPT[,OPT...]] [-f] [-d]";

static int parse_id_map(const char *text, struct id_maps *maps)
{
	char *end;

	if (maps->n == OPTION_ID_MAPS_MAX || !isdigit((unsigned char)text[0]))
		return -EINVAL;
	errno = 0;
	unsigned long local = strtoul(text, &end, 10);
	if (*end != ':' || !isdigit((unsigned char)end[1]))
		return -EINVAL;
	unsigned long filer = strtoul(end + 1, &end, 10);
	if (*end || errno || local >= UINT32_MAX || filer >= UINT32_MAX)
		return -EINVAL;
	maps->map[maps->n++] = (struct id_map){ .local = (uint32_t)local,
						.filer = (uint32_t)filer };
	return 0;
}

static int parse_choice(const struct option *opt, const char *text, int *ret)
{
	for (size_t i = 0; i < ARRAY_LEN(opt->choices) && opt->choices[i]; i++) {
		if (strcmp(opt->choices[i], text) == 0) {
			*ret = (int)i;
			return 0;
		}
	}
	return -EINVAL;
}

static int store_number(const struct option *opt, const char *text, void *field)
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
	if (opt->kind == KIND_SECONDS)
		*(double *)field = v;
	else if (opt->kind == KIND_BYTES)
		*(uint64_t *)field = (uint64_t)v;
	else if (opt->kind == KIND_UINT && v != floor(v))
		return -EINVAL;
	else
		*(unsigned *)field = (unsigned)v;
	return 0;
}

/* text is NULL where no "=" was given. */
static int store(const struct option *opt, const char *text, struct options *o)
{
	void *field = (char *)o + opt->offset;

	if ((text == NULL) != (opt->kind == KIND_FLAG))
		return -EINVAL;
	switch (opt->kind) {
	case KIND_FLAG:
		*(bool *)field = true;
		return 0;
	case KIND_UINT:
	case KIND_BYTES:
	case KIND_SECONDS:
	case KIND_MILLISECONDS:
		return store_number(opt, text, field);
	case KIND_CHOICE:
		return parse_choice(opt, text, field);
	case KIND_STRING:
		return opt_store_string(text, field);
	case KIND_MASTER:
		if (o->n_masters == OPTION_MASTERS_MAX)
			return -EINVAL;
		if (endpoint_parse(text, strlen(text), 9333, &o->masters[o->n_masters]))
			return -EINVAL;
		o->n_masters++;
		return 0;
	case KIND_UID_MAP:
		return parse_id_map(text, &o->uid_maps);
	case KIND_GID_MAP:
		return parse_id_map(text, &o->gid_maps);
	}
	return -EINVAL;
}

/* A list element that ends in "=" or "-" matches as a prefix. */
static bool listed(const char *const *list, size_t n, const char *option)
{
	for (size_t i = 0; i < n; i++) {
		size_t len = strlen(list[i]);
		char last = list[i][len - 1];

		if (last == '=' || last == '-') {
			if (strncmp(list[i], option, len) == 0)
				return true;
		} else if (strcmp(list[i], option) == 0) {
			return true;
		}
	}
	return false;
}

static int append_fuse_option(struct options *o, const char *option)
{
	char *joined;

	if (asprintf(&joined, "%s%s%s", o->fuse_options ? o->fuse_options : "",
		     o->fuse_options ? "," : "", option) < 0)
		return -ENOMEM;
	free(o->fuse_options);
	o->fuse_options = joined;
	return 0;
}

static int parse_one(char *text, struct options *o, char *message, size_t bytes)
{
	char *value = strchr(text, '=');

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		size_t name_len = value ? (size_t)(value - text) : strlen(text);

		if (strlen(table[i].name) != name_len || memcmp(table[i].name, text, name_len) != 0)
			continue;
		int err = store(&table[i], value ? value + 1 : NULL, o);
		if (err == -ENOMEM)
			return err;
		if (err == -ERANGE)
			return opt_fail(message, bytes, "option %s: the value is out of range",
					text);
		if (err)
			return opt_fail(message, bytes, "option %s: expected %s%s%s", text,
					table[i].name, table[i].value ? "=" : "",
					table[i].value ? table[i].value : "");
		o->given |= UINT64_C(1) << i;
		return 0;
	}
	if (listed(passed_on, ARRAY_LEN(passed_on), text))
		return append_fuse_option(o, text);
	if (listed(ignored, ARRAY_LEN(ignored), text))
		return 0;
	return opt_fail(message, bytes, "unknown option: %s (kelpfs --help lists the options)",
			text);
}

/* A backslash takes the next byte literally, so that a path may hold a comma. */
static int parse_list(const char *list, struct options *o, char *message, size_t bytes)
{
	char one[OPTION_VALUE_MAX_BYTES];
	size_t n = 0;

	for (const char *p = list;; p++) {
		if (*p == '\0' || *p == ',') {
			one[n] = '\0';
			int err = n ? parse_one(one, o, message, bytes) : 0;
			if (err || *p == '\0')
				return err;
			n = 0;
			continue;
		}
		if (*p == '\\' && p[1])
			p++;
		if (n + 1 >= sizeof(one))
			return opt_fail(message, bytes, "an option is longer than %d bytes",
					OPTION_VALUE_MAX_BYTES);
		one[n++] = *p;
	}
}

/* "/a/../b//c/" is not for the filer: components are kept as they are, empty ones dropped. */
static int store_path(const char *path, struct options *o, char *message, size_t bytes)
{
	char *out = malloc(strlen(path) + 2);
	size_t n = 0;

	if (!out)
		return -ENOMEM;
	for (const char *p = path; *p;) {
		p += strspn(p, "/");
		size_t len = strcspn(p, "/");
		if (len == 0)
			break;
		if ((len == 1 && p[0] == '.') || (len == 2 && p[0] == '.' && p[1] == '.')) {
			free(out);
			return opt_fail(message, bytes, "%s: the path must not contain . or ..",
					path);
		}
		out[n++] = '/';
		memcpy(out + n, p, len);
		n += len;
		p += len;
	}
	if (n == 0)
		out[n++] = '/';
	out[n] = '\0';
	free(o->path);
	o->path = out;
	return 0;
}

int options_parse_source(const char *source, struct options *o, char *message, size_t bytes)
{
	const char *p = source;

	o->n_filers = 0;
	for (;;) {
		const char *host = p;

		if (strncmp(p, "http://", 7) == 0)
			p += 7;
		else if (strncmp(p, "https://", 8) == 0)
			p += 8;
		p += strcspn(p, ",/");
		const char *end = p;
		if (*p == '/' && end > host && end[-1] == ':')
			end--; /* host:8888:/path, as NFS spells it */
		if (o->n_filers == FILERS_MAX)
			return opt_fail(message, bytes, "%s: more than %d filers", source,
					FILERS_MAX);
		if (endpoint_parse(host, (size_t)(end - host), FILER_PORT, &o->filers[o->n_filers]))
			return opt_fail(message, bytes,
					"%s: not a filer address (host:port, http://host:port or "
					"https://host:port, then /path)",
					source);
		o->n_filers++;
		if (*p != ',')
			break;
		p++;
	}
	return store_path(p, o, message, bytes);
}

static int set_defaults(struct options *o)
{
	o->readahead_kb = UINT_MAX;
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		int err = table[i].default_text ? store(&table[i], table[i].default_text, o) : 0;
		if (err)
			return err;
	}
	return 0;
}

/* Absolute, because a daemon changes its directory. */
static int store_mountpoint(const char *text, struct options *o)
{
	char *cwd;

	if (text[0] == '/')
		return opt_store_string(text, &o->mountpoint);
	cwd = getcwd(NULL, 0);
	if (!cwd)
		return -errno;
	free(o->mountpoint);
	int n = asprintf(&o->mountpoint, "%s/%s", cwd, text);
	free(cwd);
	if (n < 0) {
		o->mountpoint = NULL;
		return -ENOMEM;
	}
	return 0;
}

static int parse_positional(const char *arg, struct options *o, char *message, size_t bytes)
{
	if (!o->source)
		return opt_store_string(arg, &o->source);
	if (!o->mountpoint)
		return store_mountpoint(arg, o);
	return opt_fail(message, bytes, "unexpected argument: %s\nusage: %s", arg, usage);
}

static int parse_flag(const char *arg, struct options *o)
{
	static const struct {
		const char *text;
		enum options_command command;
	} commands[] = {
		{ "-h", COMMAND_HELP },
		{ "--help", COMMAND_HELP },
		{ "-V", COMMAND_VERSION },
		{ "--version", COMMAND_VERSION },
		{ "--dump-options=man", COMMAND_DUMP_MAN },
		{ "--dump-options=markdown", COMMAND_DUMP_MARKDOWN },
	};

	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (strcmp(arg, commands[i].text) == 0) {
			o->command = commands[i].command;
			return 0;
		}
	}
	if (strcmp(arg, "-f") == 0)
		o->foreground = true;
	else if (strcmp(arg, "-d") == 0)
		o->foreground = o->debug = true;
	else
		return -EINVAL;
	return 0;
}

static int parse_arguments(int argc, char *const argv[], struct options *o, char *message,
			   size_t bytes)
{
	bool only_positional = false;

	for (int i = 1; i < argc; i++) {
		const char *arg = argv[i];
		int err;

		if (only_positional || arg[0] != '-' || !arg[1]) {
			err = parse_positional(arg, o, message, bytes);
		} else if (strcmp(arg, "--") == 0) {
			only_positional = true;
			err = 0;
		} else if (strncmp(arg, "-o", 2) == 0) {
			const char *list = arg[2] ? arg + 2 : i + 1 < argc ? argv[++i] : NULL;

			err = list ? parse_list(list, o, message, bytes)
				   : opt_fail(message, bytes, "-o needs a list of options");
		} else if (parse_flag(arg, o)) {
			err = opt_fail(message, bytes, "unknown option: %s\nusage: %s", arg, usage);
		} else {
			err = 0;
		}
		if (err)
			return err;
		if (o->command != COMMAND_MOUNT)
			return 0;
	}
	return 0;
}

static int check_together(struct options *o, char *message, size_t bytes)
{
	if (!o->source || !o->mountpoint)
		return opt_fail(message, bytes, "a filer and a mountpoint are needed\nusage: %s",
				usage);
	if ((o->tls_cert == NULL) != (o->tls_key == NULL))
		return opt_fail(message, bytes, "tls_cert and tls_key must be given together");
	return options_parse_source(o->source, o, message, bytes);
}

int options_parse(int argc, char *const argv[], struct options *ret, char *message, size_t bytes)
{
	struct options *o = calloc(1, sizeof(*o));
	int err;

	message[0] = '\0';
	if (!o)
		return -ENOMEM;
	err = set_defaults(o);
	if (!err)
		err = parse_arguments(argc, argv, o, message, bytes);
	if (!err && o->command == COMMAND_MOUNT)
		err = check_together(o, message, bytes);
	if (err) {
		options_free(o);
		if (!message[0])
			snprintf(message, bytes, "%s", strerror(-err));
	} else {
		*ret = *o;
	}
	free(o);
	return err;
}

void options_free(struct options *o)
{
	char **const strings[] = { &o->source, &o->mountpoint, &o->path,    &o->security_toml,
				   &o->tls_ca, &o->tls_cert,   &o->tls_key, &o->fuse_options };

	for (size_t i = 0; i < ARRAY_LEN(strings); i++) {
		free(*strings[i]);
		*strings[i] = NULL;
	}
}

void options_print_help(FILE *out)
{
	fprintf(out,
		"usage: %s\n\nMounts a SeaweedFS namespace as a read-only file system.\n\n"
		"FILER is host:port, http://host:port or https://host:port (port 8888 when none "
		"is\n"
		"given); several are tried in turn. host:port:/PATH is understood too.\n\n",
		usage);
	for (size_t i = 0; i < ARRAY_LEN(flags); i++)
		fprintf(out, "  %-30s %s\n", flags[i].flag, flags[i].help);
	fprintf(out, "\noptions:\n");
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		const struct option *opt = &table[i];
		char name[128];

		snprintf(name, sizeof(name), "%s%s%s", opt->name, opt->value ? "=" : "",
			 opt->value ? opt->value : "");
		fprintf(out, "  %-30s %s", name, opt->help);
		if (opt->default_text)
			fprintf(out, " (default %s)", opt->default_text);
		fputc('\n', out);
	}
	fprintf(out, "\nAlso: allow_other, allow_root, auto_unmount, fsname=, subtype= and the\n"
		     "general options of mount(8). The mount is always read-only and checks\n"
		     "permissions by owner and mode.\n");
}

void options_print_man(FILE *out)
{
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		const struct option *opt = &table[i];

		fprintf(out, ".TP\n.B ");
		option_print_roff(out, opt->name);
		if (opt->value) {
			fputc('=', out);
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

void options_print_markdown(FILE *out)
{
	fprintf(out, "| option | default | meaning |\n|---|---|---|\n");
	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		const struct option *opt = &table[i];

		fprintf(out, "| `%s", opt->name);
		if (opt->value) {
			fputc('=', out);
			for (const char *p = opt->value; *p; p++)
				fprintf(out, *p == '|' ? "\\|" : "%c", *p);
		}
		fprintf(out, "` | %s | %s |\n", opt->default_text ? opt->default_text : "",
			opt->help);
	}
}

static void format_value(const struct option *opt, const struct options *o, char *buf, size_t bytes)
{
	const void *field = (const char *)o + opt->offset;

	switch (opt->kind) {
	case KIND_FLAG:
		snprintf(buf, bytes, "%s", *(const bool *)field ? "on" : "off");
		break;
	case KIND_UINT:
		if (*(const unsigned *)field == UINT_MAX)
			snprintf(buf, bytes, "auto");
		else
			snprintf(buf, bytes, "%u", *(const unsigned *)field);
		break;
	case KIND_BYTES:
		snprintf(buf, bytes, "%" PRIu64, *(const uint64_t *)field);
		break;
	case KIND_SECONDS:
		snprintf(buf, bytes, "%g", *(const double *)field);
		break;
	case KIND_MILLISECONDS:
		snprintf(buf, bytes, "%g", *(const unsigned *)field / 1000.0);
		break;
	case KIND_CHOICE:
		snprintf(buf, bytes, "%s", opt->choices[*(const int *)field]);
		break;
	case KIND_STRING: {
		const char *s = *(char *const *)field;

		snprintf(buf, bytes, "%s", s ? s : "");
		break;
	}
	case KIND_MASTER:
		snprintf(buf, bytes, "%zu given", o->n_masters);
		break;
	case KIND_UID_MAP:
		snprintf(buf, bytes, "%zu given", o->uid_maps.n);
		break;
	case KIND_GID_MAP:
		snprintf(buf, bytes, "%zu given", o->gid_maps.n);
		break;
	}
}

void options_each(const struct options *o,
		  void (*cb)(void *arg, const char *name, const char *value,
			     enum option_source source),
		  void *arg)
{
	char value[OPTION_VALUE_MAX_BYTES];

	for (size_t i = 0; i < ARRAY_LEN(table); i++) {
		format_value(&table[i], o, value, sizeof(value));
		cb(arg, table[i].name, value,
		   o->given & (UINT64_C(1) << i) ? OPTION_COMMAND_LINE : OPTION_DEFAULT);
	}
}
