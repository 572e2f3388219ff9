#include "fs/options.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "cache/ssd.h"
#include "filer/base/base.h"
#include "fs/httpd.h"
#include "fs/opttable.h"
#include "fs/reader.h"

#define MASTER_PORT 9333

static int store_master(const char *text, void *target)
{
	struct options *o = target;

	if (o->n_masters == OPTION_MASTERS_MAX)
		return -E2BIG;
	int err = endpoint_parse(text, strlen(text), MASTER_PORT, &o->masters[o->n_masters]);
	o->n_masters += err == 0;
	return err;
}

static int store_status(const char *text, void *target)
{
	return httpd_parse_address(text, &((struct options *)target)->status);
}

static void format_status(const void *target, char *buf, size_t bytes)
{
	const struct endpoint *e = &((const struct options *)target)->status;
	bool v6 = strchr(e->host, ':') != NULL;

	if (e->port)
		snprintf(buf, bytes, "%s%s%s:%u", v6 ? "[" : "", e->host, v6 ? "]" : "", e->port);
}

static int store_id_map(const char *text, struct id_maps *maps)
{
	char *end;

	if (maps->n == OPTION_ID_MAPS_MAX)
		return -E2BIG;
	if (!isdigit((unsigned char)text[0]))
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

static int store_uid_map(const char *text, void *target)
{
	return store_id_map(text, &((struct options *)target)->uid_maps);
}

static int store_gid_map(const char *text, void *target)
{
	return store_id_map(text, &((struct options *)target)->gid_maps);
}

/* Adds one to a list of values; what does not fit is cut. */
static void add_value(char *buf, size_t bytes, const char *value)
{
	size_t n = strlen(buf);

	snprintf(buf + n, bytes - n, "%s%s", n ? " " : "", value);
}

static void format_masters(const void *target, char *buf, size_t bytes)
{
	const struct options *o = target;

	for (size_t i = 0; i < o->n_masters; i++) {
		char text[ENDPOINT_STR_MAX];

		endpoint_url(&o->masters[i], text);
		add_value(buf, bytes, text);
	}
}

static void format_id_maps(const struct id_maps *maps, char *buf, size_t bytes)
{
	for (size_t i = 0; i < maps->n; i++) {
		char text[32];

		snprintf(text, sizeof(text), "%" PRIu32 ":%" PRIu32, maps->map[i].local,
			 maps->map[i].filer);
		add_value(buf, bytes, text);
	}
}

static void format_uid_maps(const void *target, char *buf, size_t bytes)
{
	format_id_maps(&((const struct options *)target)->uid_maps, buf, bytes);
}

static void format_gid_maps(const void *target, char *buf, size_t bytes)
{
	format_id_maps(&((const struct options *)target)->gid_maps, buf, bytes);
}

#define AT(field) offsetof(struct options, field)

/* The order is that of --help. */
/* clang-format off */
static const struct opt rows[] = {
	{ "attr_timeout", "SECONDS", 0, OPT_SECONDS, AT(attr_timeout_s), 0, 31536000, "1",
	  "how long the kernel may use a file's attributes without asking again" },
	{ "entry_timeout", "SECONDS", 0, OPT_SECONDS, AT(entry_timeout_s), 0, 31536000, "1",
	  "how long the kernel may use a name without asking again" },
	{ "negative_timeout", "SECONDS", 0, OPT_SECONDS, AT(negative_timeout_s), 0, 31536000, "0",
	  "how long a name that does not exist is remembered" },
	{ "consistency", "open|events", 0, OPT_CHOICE, AT(consistency), 0, 0, "open",
	  "every open asks the filer whether the file has changed; or its change events are trusted to tell" },
	{ "timeout", "SECONDS", 0, OPT_MILLISECONDS, AT(timeout_ms), 100, 600000, "10",
	  "longest that one request may take, with all retries, before it fails" },
	{ "connect_timeout", "SECONDS", 0, OPT_MILLISECONDS, AT(connect_timeout_ms), 10, 60000, "2",
	  "longest wait for a connection to one server" },
	{ "stall_timeout", "SECONDS", 0, OPT_MILLISECONDS, AT(stall_timeout_ms), 1000, 60000, "3",
	  "a server that sends nothing for so long is given up" },
	{ "master", "HOST:PORT", 0, OPT_OTHER, 0, 0, 0, NULL,
	  "a master of the cluster; may be given several times (asked of the filer otherwise)", store_master, 0, format_masters },
	{ "volume_access", "direct|public|proxy", 0, OPT_CHOICE, AT(volume_access), 0, 0, "direct",
	  "reach volume servers by their url, by their publicUrl, or through the filer only" },
	{ "security", "FILE", 0, OPT_PATH, AT(security_toml), 0, 0, NULL,
	  "SeaweedFS's security.toml: read keys and client certificate" },
	{ "tls_ca", "FILE", 0, OPT_PATH, AT(tls_ca), 0, 0, NULL,
	  "CA certificate of the servers (PEM), for https:// filers" },
	{ "tls_cert", "FILE", 0, OPT_PATH, AT(tls_cert), 0, 0, NULL,
	  "client certificate (PEM)" },
	{ "tls_key", "FILE", 0, OPT_PATH, AT(tls_key), 0, 0, NULL,
	  "private key of the client certificate (PEM)" },
	{ "verify", "off|md5", 0, OPT_CHOICE, AT(verify), 0, 0, "off",
	  "compare whole decoded chunks with the MD5 of their entry" },
	{ "agent", "off|auto|require", 0, OPT_CHOICE, AT(agent), 0, 0, "auto",
	  "read from kelpd beside a volume server where there is one; require: from nowhere else" },
	{ "agent_port", "N", 0, OPT_UINT, AT(agent_port), 1, 65535, "18515",
	  "where kelpd listens, on each volume server's host" },
	{ "rdma", "off|auto|require", 0, OPT_CHOICE, AT(rdma), 0, 0, "auto",
	  "read from kelpd over RDMA where both sides have it; require: in no other way" },
	{ "rdma_map", "FILE", 0, OPT_PATH, AT(rdma_map), 0, 0, NULL,
	  "where agents take RDMA connections, if not where they say: lines of a volume server's HOST:PORT and an ADDRESS[:PORT]" },
	{ "rdma_device", "NAME", 0, OPT_STRING, AT(rdma_device), 0, 0, NULL,
	  "use this RDMA device only; default: the one that leads to the agent" },
	{ "rdma_tos", "N", 0, OPT_UINT, AT(rdma_tos), 0, RDMA_TOS_SYSTEM, "256",
	  "type of service of RDMA packets (DSCP * 4); 256: the system's" },
	{ "map_uid", "LOCAL:FILER", 0, OPT_OTHER, 0, 0, 0, NULL,
	  "show the filer's user FILER as LOCAL; may be given several times", store_uid_map, 0, format_uid_maps },
	{ "map_gid", "LOCAL:FILER", 0, OPT_OTHER, 0, 0, 0, NULL,
	  "show the filer's group FILER as LOCAL; may be given several times", store_gid_map, 0, format_gid_maps },
	{ "system_entries", NULL, 0, OPT_FLAG, AT(system_entries), 0, 0, NULL,
	  "show SeaweedFS's own /topics and /etc" },
	{ "list_page", "N", 0, OPT_UINT, AT(list_page), 1, FILER_PAGE_MAX, "1024",
	  "entries asked for in one request of a listing" },
	{ "slab", "SIZE", 0, OPT_BYTES, AT(slab_bytes), 8.0 * 1024 * 1024, 1e15, "256M",
	  "memory for file data: the block cache and all reads under way" },
	{ "huge_pages", "auto|off", 0, OPT_CHOICE, AT(huge_pages), 0, 0, "auto",
	  "lay the slab in huge pages that were set aside (vm.nr_hugepages), where all of it fits; off: leave them to others" },
	{ "readahead", "SIZE", 0, OPT_BYTES, AT(readahead_bytes), 0, 1e12, "16M",
	  "most that is read ahead of one sequential reader; 0 turns it off" },
	{ "cache_dir", "DIR", 0, OPT_PATH, AT(cache_dir), 0, 0, NULL,
	  "keep file data in this directory, too, on a local SSD; what is encrypted is left out" },
	{ "cache_size", "SIZE", 0, OPT_BYTES, AT(cache_bytes), (double)SSD_BYTES_MIN, (double)SSD_BYTES_MAX, "16G",
	  "most that this mount takes of cache_dir's disk" },
	{ "prefetch_threads", "N", 0, OPT_UINT, AT(prefetch_threads), 1, 256, "8",
	  "requests for readahead under way at once" },
	{ "threads", "N", 0, OPT_UINT, AT(threads), 1, 1024, "16",
	  "requests of the kernel worked on at once" },
	{ "max_read", "SIZE", 0, OPT_BYTES, AT(max_read_bytes), 4096, (double)READ_BYTES_MAX, "1M",
	  "largest read that the kernel asks for in one request" },
	{ "max_background", "N", 0, OPT_UINT, AT(max_background), 1, 65535, "64",
	  "readahead requests that the kernel keeps under way" },
	{ "readahead_kb", "N", 0, OPT_UINT, AT(readahead_kb), 0, 1048576, NULL,
	  "the kernel's own readahead for this mount; set to 1024 where permitted if not given" },
	{ "splice", "off|on|auto", 0, OPT_CHOICE, AT(splice), 0, 0, "auto",
	  "hand data to the kernel by splice instead of a copy; auto: what measured better" },
	{ "clone_fd", NULL, 0, OPT_FLAG, AT(clone_fd), 0, 0, NULL,
	  "a device descriptor of its own for each thread" },
	{ "direct_io", NULL, 0, OPT_FLAG, AT(direct_io), 0, 0, NULL,
	  "bypass the kernel's page cache" },
	{ "nonempty", NULL, 0, OPT_FLAG, AT(nonempty), 0, 0, NULL,
	  "mount over a directory that is not empty" },
	{ "control", "off|on", 0, OPT_CHOICE, AT(control), 0, 0, "on",
	  "the hidden directory .kelpfs with the files stats, metrics and config" },
	{ "status", "[ADDR:]PORT", 0, OPT_OTHER, 0, 0, 0, NULL,
	  "serve /health, /stats, /metrics and /config over HTTP there; on 127.0.0.1 if only a port is given", store_status, 0, format_status },
	{ "log", "auto|stderr|syslog", 0, OPT_CHOICE, AT(log), 0, 0, "auto",
	  "where messages go; auto: stderr in the foreground, else syslog" },
};
/* clang-format on */

_Static_assert(ARRAY_LEN(rows) <= 64, "struct options.given has a bit for each");

static const struct opt_table table = { rows, ARRAY_LEN(rows), .in_list = true };

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

static int parse_one(const char *text, struct options *o, char *message, size_t bytes)
{
	size_t row;
	int err = opt_assign(&table, text, o, &row, message, bytes);

	if (!err)
		o->given |= UINT64_C(1) << row;
	if (err != -ENOENT)
		return err;
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

static int parse_positional(const char *arg, struct options *o, char *message, size_t bytes)
{
	if (!*arg && (!o->source || !o->mountpoint))
		return opt_fail(message, bytes, "the %s is empty\nusage: %s",
				o->source ? "mountpoint" : "filer", usage);
	if (!o->source)
		return opt_store_string(arg, &o->source);
	if (!o->mountpoint)
		return opt_store_path(arg, &o->mountpoint);
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
		{ "--dump-metrics", COMMAND_DUMP_METRICS },
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
	o->readahead_kb = UINT_MAX;
	err = opt_defaults(&table, o);
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
	char **const strings[] = { &o->source,      &o->mountpoint, &o->path,     &o->security_toml,
				   &o->tls_ca,      &o->tls_cert,   &o->tls_key,  &o->fuse_options,
				   &o->rdma_device, &o->rdma_map,   &o->cache_dir };

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
	opt_print_help(out, &table, 0, false);
	fprintf(out, "\nAlso: allow_other, allow_root, auto_unmount, fsname=, subtype= and the\n"
		     "general options of mount(8). The mount is always read-only and checks\n"
		     "permissions by owner and mode.\n");
}

void options_print_man(FILE *out)
{
	opt_print_man(out, &table, 0, false);
}

void options_each(const struct options *o,
		  void (*cb)(void *arg, const char *name, const char *value,
			     enum option_source source),
		  void *arg)
{
	char value[OPTION_VALUE_MAX_BYTES];

	for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
		opt_format(&rows[i], o, value, sizeof(value));
		cb(arg, rows[i].name, value,
		   o->given & (UINT64_C(1) << i) ? OPTION_COMMAND_LINE : OPTION_DEFAULT);
	}
}
