#include "fs/ctl_options.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "filer/base/base.h"
#include "fs/httpd.h"
#include "fs/opttable.h"
#include "fs/optvalue.h"
#include "rdma/client.h"
#include "rdma/wire.h"

#define MASTER_PORT 9333
#define VOLUME_SERVER_PORT 8080

#define BIT(command) (1u << (command))
#define NEEDLES (BIT(CTL_READ) | BIT(CTL_BENCH))
#define SERVE BIT(CTL_SERVE)
#define CLUSTER (NEEDLES | SERVE | BIT(CTL_LOCATE))

struct command {
	const char *name;
	const char *arguments;
	unsigned args_min, args_max;
	const char *help;
};

static const struct command commands[CTL_COMMANDS] = {
	[CTL_PING] = { "ping", "HOST[:PORT]", 1, 1, "round trips to an agent, until interrupted" },
	[CTL_CAPS] = { "caps", "HOST[:PORT]", 1, 1, "what an agent says of itself" },
	[CTL_DEVICES] = { "devices", "", 0, 0, "the RDMA devices of this machine" },
	[CTL_LOCATE] = { "locate", "FILER/PATH", 1, 1,
			 "a path's entry, and where each visible extent of it is stored" },
	[CTL_READ] = { "read", "FID", 1, 1, "one needle's bytes to standard output" },
	[CTL_BENCH] = { "bench", "FID...|FILER/PATH", 1, CTL_FIDS_MAX,
			"bandwidth and latency of random reads, by size and depth" },
	[CTL_SERVE] = { "serve", "", 0, 0, "an HTTP server that reads needles for others" },
	[CTL_STATS] = { "stats", "MOUNTPOINT|ADDR:PORT", 1, 1,
			"what a mount does, a line for each interval, until interrupted" },
};

static const char *const via_names[] = { "rdma", "tcp", "http", "proxy" };
_Static_assert(BIT(ARRAY_LEN(via_names)) == VIA_END, "a name for each way");

const char *ctl_via_name(unsigned via)
{
	return via_names[__builtin_ctz(via)];
}

/* --- values --- */

/* Calls one for each element of a comma-separated list. */
static int each_element(const char *list, int (*one)(const char *text, void *arg), void *arg)
{
	char text[64];

	for (const char *p = list;; p++) {
		size_t len = strcspn(p, ",");

		if (len == 0 || len >= sizeof(text))
			return -EINVAL;
		memcpy(text, p, len);
		text[len] = '\0';
		int err = one(text, arg);
		if (err)
			return err;
		p += len;
		if (!*p)
			return 0;
	}
}

static int add_via(const char *text, void *arg)
{
	for (size_t i = 0; i < ARRAY_LEN(via_names); i++) {
		if (strcmp(text, via_names[i]) == 0) {
			*(unsigned *)arg |= BIT(i);
			return 0;
		}
	}
	return -EINVAL;
}

static int store_via(const char *text, void *target)
{
	struct ctl_options *o = target;

	o->via = 0;
	return each_element(text, add_via, &o->via);
}

static int store_transport(const char *text, void *target)
{
	struct ctl_options *o = target;
	int err = store_via(text, o);

	return !err && o->via != VIA_RDMA && o->via != VIA_TCP ? -EINVAL : err;
}

struct number_list {
	uint64_t *values;
	size_t n;
	double max;
};

static int add_number(const char *text, void *arg)
{
	struct number_list *l = arg;
	double v;
	int err = option_parse_bytes(text, &v);

	if (err)
		return err;
	if (v < 1 || v > l->max || v != floor(v) || l->n == CTL_LIST_MAX)
		return -ERANGE;
	l->values[l->n++] = (uint64_t)v;
	return 0;
}

static int store_numbers(const char *text, double max, uint64_t *values, size_t *n)
{
	struct number_list l = { .values = values, .max = max };
	int err = each_element(text, add_number, &l);

	*n = l.n;
	return err;
}

static int store_sizes(const char *text, void *target)
{
	struct ctl_options *o = target;

	return store_numbers(text, (double)CTL_NEEDLE_BYTES_MAX, o->sizes, &o->n_sizes);
}

static int store_depths(const char *text, void *target)
{
	struct ctl_options *o = target;

	return store_numbers(text, CTL_DEPTH_MAX, o->depths, &o->n_depths);
}

static int store_filer(const char *text, void *target)
{
	struct ctl_options *o = target;
	char message[256];
	int err = options_parse_source(text, &o->cluster, message, sizeof(message));

	return !err && strcmp(o->cluster.path, "/") != 0 ? -EINVAL : err;
}

static int store_master(const char *text, void *target)
{
	struct options *o = &((struct ctl_options *)target)->cluster;

	if (o->n_masters == OPTION_MASTERS_MAX)
		return -E2BIG;
	int err = endpoint_parse(text, strlen(text), MASTER_PORT, &o->masters[o->n_masters]);
	o->n_masters += err == 0;
	return err;
}

static int store_server(const char *text, void *target)
{
	struct ctl_options *o = target;

	o->has_server = true;
	return endpoint_parse(text, strlen(text), VOLUME_SERVER_PORT, &o->server);
}

static int store_agent(const char *text, void *target)
{
	struct ctl_options *o = target;

	o->has_agent = true;
	return strstr(text, "://") ? -EINVAL
				   : endpoint_parse(text, strlen(text), WIRE_PORT, &o->agent);
}

static int store_listen(const char *text, void *target)
{
	return httpd_parse_address(text, &((struct ctl_options *)target)->listen);
}

#define AT(field) offsetof(struct ctl_options, field)

/* clang-format off */
static const struct opt rows[] = {
	{ "count", "N", 'c', OPT_UINT, AT(count), 1, 1e9, NULL,
	  "stop after so many lines", NULL, BIT(CTL_STATS) },
	{ "interval", "SECONDS", 'i', OPT_MILLISECONDS, AT(interval_ms), 10, 3600000, "1",
	  "what a line covers", NULL, BIT(CTL_STATS) },
	{ "once", NULL, '1', OPT_FLAG, AT(once), 0, 0, NULL,
	  "one line, of all since the mount was made", NULL, BIT(CTL_STATS) },
	{ "count", "N", 'c', OPT_UINT, AT(count), 1, 1e9, NULL,
	  "stop after so many pings", NULL, BIT(CTL_PING) },
	{ "interval", "SECONDS", 'i', OPT_MILLISECONDS, AT(interval_ms), 1, 3600000, "1",
	  "pause between two pings", NULL, BIT(CTL_PING) },
	{ "json", NULL, 0, OPT_FLAG, AT(json), 0, 0, NULL,
	  "print JSON", NULL, BIT(CTL_PING) | BIT(CTL_CAPS) | BIT(CTL_DEVICES) | BIT(CTL_LOCATE) },
	{ "json", NULL, 0, OPT_FLAG, AT(json), 0, 0, NULL,
	  "all numbers as JSON, once", NULL, BIT(CTL_STATS) },
	{ "filer", "FILER", 0, OPT_OTHER, 0, 0, 0, NULL,
	  "a filer, which knows the masters and stands in for volume servers", store_filer, NEEDLES | SERVE },
	{ "master", "HOST[:PORT]", 0, OPT_OTHER, 0, 0, 0, NULL,
	  "a master, which knows the volume servers; may be given several times", store_master, CLUSTER },
	{ "server", "HOST[:PORT]", 0, OPT_OTHER, 0, 0, 0, NULL,
	  "the volume server, without asking a master", store_server, NEEDLES | SERVE },
	{ "agent", "HOST[:PORT]", 0, OPT_OTHER, 0, 0, 0, NULL,
	  "the agent (else on a volume server's host, port 18515); alone, only it is asked", store_agent, NEEDLES },
	{ "via", "WAY[,WAY...]", 0, OPT_OTHER, 0, 0, 0, NULL,
	  "rdma, tcp (agent), http (volume server), proxy (filer): all there are, in that order, if not given", store_via, BIT(CTL_READ) | SERVE },
	{ "via", "WAY[,WAY...]", 0, OPT_OTHER, 0, 0, 0, NULL,
	  "what to measure: rdma, tcp (agent; if not given), http (volume server), proxy (filer)", store_via, BIT(CTL_BENCH) },
	{ "via", "rdma|tcp", 0, OPT_OTHER, 0, 0, 0, NULL,
	  "how to connect to the agent; tcp if not given", store_transport, BIT(CTL_PING) | BIT(CTL_CAPS) },
	{ "public", NULL, 0, OPT_SET, AT(cluster.volume_access), VOLUME_PUBLIC, 0, NULL,
	  "reach volume servers by their publicUrl", NULL, CLUSTER },
	{ "offset", "N", 0, OPT_BYTES, AT(offset), 0, (double)CTL_NEEDLE_BYTES_MAX, NULL,
	  "first byte", NULL, BIT(CTL_READ) },
	{ "size", "N", 0, OPT_BYTES, AT(size), 0, (double)CTL_NEEDLE_BYTES_MAX, NULL,
	  "how many bytes; 0: all that follow", NULL, BIT(CTL_READ) },
	{ "raw", NULL, 0, OPT_FLAG, AT(raw), 0, 0, NULL,
	  "as stored: leave compressed what is", NULL, BIT(CTL_READ) },
	{ "output", "FILE", 'o', OPT_STRING, AT(output), 0, 0, NULL,
	  "write there instead", NULL, BIT(CTL_READ) },
	{ "verbose", NULL, 'v', OPT_FLAG, AT(verbose), 0, 0, NULL,
	  "say on standard error what agents answered, with the leases they gave, and where the bytes came from, their CRC32C and how long it took", NULL, BIT(CTL_READ) },
	{ "sizes", "SIZE[,SIZE...]", 0, OPT_OTHER, 0, 0, 0, "4K,64K,1M",
	  "bytes of one read", store_sizes, BIT(CTL_BENCH) },
	{ "depths", "N[,N...]", 0, OPT_OTHER, 0, 0, 0, "1,16",
	  "reads under way at once, each with a thread of its own", store_depths, BIT(CTL_BENCH) },
	{ "seconds", "SECONDS", 0, OPT_MILLISECONDS, AT(point_ms), 50, 3600000, "3",
	  "how long each combination is measured", NULL, BIT(CTL_BENCH) },
	{ "connections", "N", 0, OPT_UINT, AT(connections), 1, CLIENT_CONNECTIONS_LIMIT, "10",
	  "most connections to one agent", NULL, BIT(CTL_BENCH) },
	{ "json", "FILE", 0, OPT_STRING, AT(json_file), 0, 0, NULL,
	  "the results as JSON there, too; - is standard output, without the table", NULL, BIT(CTL_BENCH) },
	{ "listen", "[ADDR:]PORT", 0, OPT_OTHER, 0, 0, 0, "127.0.0.1:8081",
	  "where to listen; *:PORT is every address of this machine", store_listen, SERVE },
	{ "any-server", NULL, 0, OPT_FLAG, AT(any_server), 0, 0, NULL,
	  "take every volume_server that a request names, not only those of the volume", NULL, SERVE },
	{ "agent-port", "PORT", 0, OPT_UINT, AT(cluster.agent_port), 1, 65535, "18515",
	  "port of the agents beside volume servers", NULL, SERVE },
	{ "reads", "N", 0, OPT_UINT, AT(reads_max), 1, CTL_READS_MAX, "64",
	  "most reads at once; further ones are answered with 429", NULL, SERVE },
	{ "memory", "SIZE", 0, OPT_BYTES, AT(memory_bytes), 16.0 * MIB, 1024.0 * GIB, "256M",
	  "most memory for the bytes of all reads", NULL, SERVE },
	{ "huge-pages", "auto|off", 0, OPT_CHOICE, AT(cluster.huge_pages), 0, 0, "auto",
	  "read into huge pages that were set aside (vm.nr_hugepages), where there are enough; off: leave them to others", NULL, SERVE },
	{ "decode", "SIZE", 0, OPT_BYTES, AT(decode_bytes), 1.0 * MIB, (double)CTL_NEEDLE_BYTES_MAX, "64M",
	  "largest needle that is stored compressed and is wanted whole", NULL, SERVE },
	{ "client-timeout", "SECONDS", 0, OPT_MILLISECONDS, AT(client_ms), 100, 3600000, "30",
	  "longest that a client may take to send a request, and to take an answer", NULL, SERVE },
	{ "temp-dir", "DIR", 0, OPT_PATH, AT(temp_dir), 0, 0, NULL,
	  "offer bytes as files in this private folder, too (X-Temp-File)", NULL, SERVE },
	{ "temp-age", "SECONDS", 0, OPT_MILLISECONDS, AT(temp_age_ms), 100, 3600000, "30",
	  "remove such files after so long", NULL, SERVE },
	{ "no-token", NULL, 0, OPT_FLAG, AT(no_token), 0, 0, NULL,
	  "take reads without a token though --security has a read key", NULL, SERVE },
	{ "claim-rdma", NULL, 0, OPT_FLAG, AT(claim_rdma), 0, 0, NULL,
	  "say X-RDMA-Used: true for every read: weed mount up to 4.44 throws others away", NULL, SERVE },
	{ "security", "FILE", 0, OPT_STRING, AT(cluster.security_toml), 0, 0, NULL,
	  "SeaweedFS's security.toml: read keys and client certificate" },
	{ "tls-ca", "FILE", 0, OPT_STRING, AT(cluster.tls_ca), 0, 0, NULL,
	  "CA certificate of the servers (PEM), for https://", NULL, CLUSTER },
	{ "tls-cert", "FILE", 0, OPT_STRING, AT(cluster.tls_cert), 0, 0, NULL,
	  "client certificate (PEM)", NULL, CLUSTER },
	{ "tls-key", "FILE", 0, OPT_STRING, AT(cluster.tls_key), 0, 0, NULL,
	  "private key of the client certificate (PEM)", NULL, CLUSTER },
	{ "timeout", "SECONDS", 0, OPT_MILLISECONDS, AT(timeout_ms), 10, 600000, "10",
	  "longest that one request may take, with all retries" },
	{ "help", NULL, 'h', OPT_SET, AT(request), CTL_HELP, 0, NULL,
	  "this text; behind a command: that of the command" },
	{ "version", NULL, 'V', OPT_SET, AT(request), CTL_VERSION, 0, NULL,
	  "the version" },
};
/* clang-format on */

static const struct opt_table table = { rows, ARRAY_LEN(rows) };

/* --- arguments --- */

static int parse_fids(const char *const *args, size_t n, struct ctl_options *o, char *message,
		      size_t bytes)
{
	o->fids = calloc(n, sizeof(o->fids[0]));
	if (!o->fids)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		if (fid_parse(args[i], strlen(args[i]), &o->fids[i]))
			return opt_fail(message, bytes, "%s: not a file id, such as 3,01637037d6",
					args[i]);
		o->n_fids++;
	}
	return 0;
}

static bool is_path(const char *arg)
{
	struct fid fid;

	return strchr(arg, '/') && fid_parse(arg, strlen(arg), &fid) != 0;
}

static int parse_arguments(const char *const *args, size_t n, struct ctl_options *o, char *message,
			   size_t bytes)
{
	if (n == 0)
		return 0;
	switch (o->command) {
	case CTL_PING:
	case CTL_CAPS:
		if (!o->via)
			o->via = VIA_TCP;
		return store_agent(args[0], o) ? opt_fail(message, bytes,
							  "%s: not an address of an agent "
							  "(HOST[:PORT])",
							  args[0])
					       : 0;
	case CTL_LOCATE:
		return options_parse_source(args[0], &o->cluster, message, bytes);
	case CTL_STATS:
		httpd_parse_address(args[0], &o->status);
		return opt_store_string(args[0], &o->where);
	case CTL_BENCH:
		if (n != 1 || !is_path(args[0]))
			return parse_fids(args, n, o, message, bytes);
		if (o->cluster.n_filers)
			return opt_fail(message, bytes, "--filer: %s names the filer", args[0]);
		return options_parse_source(args[0], &o->cluster, message, bytes);
	default:
		return parse_fids(args, n, o, message, bytes);
	}
}

/* Where needles can be read with what was given. */
static unsigned ways_there_are(const struct ctl_options *o)
{
	const struct options *c = &o->cluster;
	unsigned ways = 0;

	if (o->has_server || o->any_server || c->n_masters || c->n_filers)
		ways |= VIA_AGENT | VIA_HTTP;
	if (o->has_agent)
		ways |= VIA_AGENT;
	if (c->n_filers)
		ways |= VIA_PROXY;
	return ways;
}

static int check_ways(struct ctl_options *o, char *message, size_t bytes)
{
	unsigned ways = ways_there_are(o);

	if (!ways)
		return opt_fail(message, bytes,
				"where? --filer, --master, --server or --agent says so");
	if (!o->via) {
		o->via_any = o->command != CTL_BENCH;
		o->via = o->via_any ? ways : VIA_TCP;
	}
	unsigned missing = o->via & ~ways;
	if (missing & VIA_HTTP)
		return opt_fail(message, bytes, "--via http needs --filer, --master or --server");
	if (missing & VIA_PROXY)
		return opt_fail(message, bytes, "--via proxy needs --filer");
	return 0;
}

static int check_together(struct ctl_options *o, char *message, size_t bytes)
{
	const struct options *c = &o->cluster;

	if ((c->tls_cert == NULL) != (c->tls_key == NULL))
		return opt_fail(message, bytes, "--tls-cert and --tls-key must be given together");
	if (o->command == CTL_SERVE && o->memory_bytes < o->decode_bytes)
		return opt_fail(message, bytes, "--memory must not be less than --decode");
	return BIT(o->command) & (NEEDLES | SERVE) ? check_ways(o, message, bytes) : 0;
}

static int parse_command(const char *arg, struct ctl_options *o, char *message, size_t bytes)
{
	for (int i = CTL_NONE + 1; i < CTL_COMMANDS; i++) {
		if (strcmp(commands[i].name, arg) == 0) {
			o->command = (enum ctl_command)i;
			return 0;
		}
	}
	return opt_fail(message, bytes, "unknown command: %s (kelpctl --help lists the commands)",
			arg);
}

static int parse_option(const char *arg, const char *next, bool *ret_took_next,
			struct ctl_options *o, char *message, size_t bytes)
{
	const char *name = o->command ? commands[o->command].name : "";

	if (strcmp(arg, "--dump-options=man") == 0) {
		*ret_took_next = false;
		o->request = CTL_DUMP_MAN;
		return 0;
	}
	if (strcmp(arg, "--dump-metrics") == 0) {
		*ret_took_next = false;
		o->request = CTL_DUMP_METRICS;
		return 0;
	}
	int err = opt_parse(&table, BIT(o->command), arg, next, ret_took_next, o, message, bytes);
	if (err != -ENOENT)
		return err;
	return opt_fail(message, bytes, "%s%sunknown option: %s (kelpctl %s%s--help lists them)",
			name, o->command ? ": " : "", arg, name, o->command ? " " : "");
}

static int parse(int argc, char *const argv[], const char **args, struct ctl_options *o,
		 char *message, size_t bytes)
{
	bool only_arguments = false;
	size_t n_args = 0;
	int err = opt_defaults(&table, o);

	for (int i = 1; i < argc && !err; i++) {
		const char *arg = argv[i];
		bool took_next = false;

		if (!only_arguments && strcmp(arg, "--") == 0)
			only_arguments = true;
		else if (!only_arguments && arg[0] == '-' && arg[1])
			err = parse_option(arg, i + 1 < argc ? argv[i + 1] : NULL, &took_next, o,
					   message, bytes);
		else if (!o->command)
			err = parse_command(arg, o, message, bytes);
		else
			args[n_args++] = arg;
		i += took_next;
		if (!err && o->request != CTL_RUN)
			return 0;
	}
	if (err)
		return err;
	if (!o->command)
		return opt_fail(message, bytes,
				"a command is needed (kelpctl --help lists the commands)");
	const struct command *c = &commands[o->command];
	if (n_args < c->args_min || n_args > c->args_max)
		return opt_fail(message, bytes, "%s: too %s arguments (usage: kelpctl %s%s%s)",
				c->name, n_args < c->args_min ? "few" : "many", c->name,
				*c->arguments ? " " : "", c->arguments);
	err = parse_arguments(args, n_args, o, message, bytes);
	return err ? err : check_together(o, message, bytes);
}

int ctl_options_parse(int argc, char *const argv[], struct ctl_options *ret, char *message,
		      size_t bytes)
{
	CLEANUP_FREE const char **args = calloc((size_t)argc + 1, sizeof(*args));
	CLEANUP_FREE struct ctl_options *o = calloc(1, sizeof(*o));

	message[0] = '\0';
	int err = args && o ? parse(argc, argv, args, o, message, bytes) : -ENOMEM;
	if (err) {
		if (o)
			ctl_options_free(o);
		if (!message[0])
			snprintf(message, bytes, "%s", strerror(-err));
		return err;
	}
	*ret = *o;
	return 0;
}

void ctl_options_free(struct ctl_options *o)
{
	options_free(&o->cluster);
	free(o->fids);
	free(o->output);
	free(o->where);
	free(o->json_file);
	free(o->temp_dir);
}

/* --- help --- */

void ctl_options_print_help(FILE *out, enum ctl_command command)
{
	if (command) {
		const struct command *c = &commands[command];

		fprintf(out, "usage: kelpctl %s%s%s [OPTION...]\n\n%s %s.\n\noptions:\n", c->name,
			*c->arguments ? " " : "", c->arguments,
			command == CTL_SERVE ? "Runs" : "Prints", c->help);
		opt_print_help(out, &table, BIT(command), false);
		return;
	}
	fprintf(out, "usage: kelpctl COMMAND ARGUMENT... [OPTION...]\n\n"
		     "The hand tool of kelpfs. `kelpctl COMMAND --help` lists the options of a "
		     "command.\n\ncommands:\n");
	for (int i = CTL_NONE + 1; i < CTL_COMMANDS; i++) {
		char name[64];

		snprintf(name, sizeof(name), "%s %s", commands[i].name, commands[i].arguments);
		fprintf(out, "  %-30s %s\n", name, commands[i].help);
	}
	fprintf(out, "\noptions of every command:\n");
	opt_print_help(out, &table, 0, false);
}

void ctl_options_print_man(FILE *out)
{
	fprintf(out, ".SH COMMANDS\n");
	for (int i = CTL_NONE + 1; i < CTL_COMMANDS; i++) {
		fprintf(out, ".SS ");
		option_print_roff(out, commands[i].name);
		fputc(' ', out);
		option_print_roff(out, commands[i].arguments);
		fprintf(out, "\nPrints ");
		option_print_roff(out, commands[i].help);
		fprintf(out, ".\n");
		opt_print_man(out, &table, BIT(i), true);
	}
	fprintf(out, ".SH OPTIONS OF EVERY COMMAND\n");
	opt_print_man(out, &table, 0, false);
}
