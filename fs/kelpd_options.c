#include "fs/kelpd_options.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "filer/base/base.h"
#include "fs/httpd.h"
#include "fs/opttable.h"
#include "rdma/wire.h"

#define VOLUME_SERVER_PORT 8080

static int store_dir(const char *text, void *target)
{
	struct kelpd_options *o = target;

	if (o->n_dirs == STORE_DIRS_MAX)
		return -E2BIG;
	int err = opt_store_path(text, &o->dirs[o->n_dirs]);
	o->n_dirs += err == 0;
	return err;
}

/* ADDR, ADDR:PORT, :PORT, [V6]:PORT; "*" is all addresses. */
static int store_listen(const char *text, void *target)
{
	struct kelpd_options *o = target;
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

static int store_status(const char *text, void *target)
{
	return httpd_parse_address(text, &((struct kelpd_options *)target)->status);
}

static int store_volume_server(const char *text, void *target)
{
	struct kelpd_options *o = target;

	o->has_volume_server = true;
	return endpoint_parse(text, strlen(text), VOLUME_SERVER_PORT, &o->volume_server);
}

#define AT(field) offsetof(struct kelpd_options, field)

/* clang-format off */
static const struct opt rows[] = {
	{ "dir", "DIR", 0, OPT_OTHER, 0, 0, 0, NULL,
	  "a data directory of the volume server (its -dir); may be given several times", store_dir },
	{ "idx-dir", "DIR", 0, OPT_PATH, AT(idx_dir), 0, 0, NULL,
	  "where its index files are, if elsewhere (its -dir.idx)" },
	{ "listen", "ADDR[:PORT]", 0, OPT_OTHER, 0, 0, 0, ":18515",
	  "address and port to listen on; all addresses if none is given", store_listen },
	{ "volume-server", "HOST:PORT", 0, OPT_OTHER, 0, 0, 0, NULL,
	  "without --dir: ask this volume server for its data directories", store_volume_server },
	{ "security", "FILE", 0, OPT_PATH, AT(security_toml), 0, 0, NULL,
	  "SeaweedFS's security.toml: the key that read tokens are signed with" },
	{ "max-connections", "N", 0, OPT_UINT, AT(connections_max), 1, 100000, "1024",
	  "further clients are refused, and told so" },
	{ "idle-timeout", "SECONDS", 0, OPT_MILLISECONDS, AT(idle_ms), 1000, 86400000, "300",
	  "a connection on which nothing comes for so long is closed" },
	{ "staging", "SIZE", 0, OPT_BYTES, AT(staging_bytes), 1024.0 * 1024, 1e13, "64M",
	  "most memory that answers may wait in, of all connections together" },
	{ "threads", "N", 0, OPT_UINT, AT(threads), 1, 16, "2",
	  "event threads" },
	{ "status", "[ADDR:]PORT", 0, OPT_OTHER, 0, 0, 0, NULL,
	  "serve /health, /stats and /metrics over HTTP there; on 127.0.0.1 if only a port is given", store_status },
	{ "foreground", NULL, 'f', OPT_FLAG, AT(foreground), 0, 0, NULL,
	  "stay in the foreground; messages go to standard error" },
	{ "debug", NULL, 'd', OPT_FLAG, AT(debug), 0, 0, NULL,
	  "debug messages, in the foreground" },
	{ "help", NULL, 'h', OPT_SET, AT(command), KELPD_HELP, 0, NULL,
	  "this text" },
	{ "version", NULL, 'V', OPT_SET, AT(command), KELPD_VERSION, 0, NULL,
	  "the version, and what this kernel offers" },
};
/* clang-format on */

static const struct opt_table table = { rows, ARRAY_LEN(rows) };

static const char usage[] = "kelpd --dir DIR [--dir DIR ...] [OPTION...]\n"
			    "       kelpd --volume-server HOST:PORT [OPTION...]";

static int parse_option(const char *arg, const char *next, bool *ret_took_next,
			struct kelpd_options *o, char *message, size_t bytes)
{
	if (strcmp(arg, "--dump-options=man") == 0) {
		*ret_took_next = false;
		o->command = KELPD_DUMP_MAN;
		return 0;
	}
	if (strcmp(arg, "--dump-metrics") == 0) {
		*ret_took_next = false;
		o->command = KELPD_DUMP_METRICS;
		return 0;
	}
	int err = opt_parse(&table, 0, arg, next, ret_took_next, o, message, bytes);
	return err != -ENOENT ? err
			      : opt_fail(message, bytes, "unknown %s: %s\nusage: %s",
					 arg[0] == '-' ? "option" : "argument", arg, usage);
}

static int parse(int argc, char *const argv[], struct kelpd_options *o, char *message, size_t bytes)
{
	int err = opt_defaults(&table, o);

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
		return opt_fail(message, bytes,
				"the data directories of a volume server are needed\nusage: %s",
				usage);
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

void kelpd_options_print_help(FILE *out)
{
	fprintf(out,
		"usage: %s\n\nServes the needles of a SeaweedFS volume server, straight from its "
		"volume files.\n\noptions:\n",
		usage);
	opt_print_help(out, &table, 0, false);
}

void kelpd_options_print_man(FILE *out)
{
	opt_print_man(out, &table, 0, false);
}
