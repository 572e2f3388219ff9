/* kelpd: serves the needles of a volume server from its volume files.
 *
 * Threads: this one waits for signals; the listeners have their own. */
#include <errno.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/utsname.h>
#include <time.h>

#include "filer/base/base.h"
#include "filer/http.h"
#include "filer/tls.h"
#include "filer/token.h"
#include "filer/volume_status.h"
#include "fs/kelpd_options.h"
#include "fs/kelpd_status.h"
#include "fs/launch.h"
#include "fs/log.h"
#include "fs/notify.h"
#include "rdma/agent/agent.h"
#include "rdma/agent/disk.h"
#include "rdma/agent/store.h"
#include "rdma/agent/transport.h"
#include "rdma/agent/verbs.h"
#include "rdma/device.h"

#define SOFTWARE "kelpd " KELP_VERSION
#define VOLUME_SERVER_TIMEOUT_MS 5000
#define STOP_TIMEOUT_MS 5000
/* How often it is said in the log what went wrong with clients. */
#define REPORT_S 10
/* Open files that are neither connections nor volumes. */
#define OTHER_FILES 64

struct kelpd {
	struct kelpd_options *options;
	struct token_source *tokens;
	struct store *store;
	struct agent agent;
	struct listener *tcp;
	struct listener *verbs; /* NULL: no RDMA here */
	struct kelpd_status *status; /* NULL: not wanted */
	uint64_t ended_before; /* connections, when memory was last looked at */
	struct {
		uint64_t refused, version_refused, malformed, stalled, denied, io, corrupt;
	} reported; /* counters when they were last logged */
};

static void print_version(void)
{
	struct utsname u;
	struct disk *d;

	printf(SOFTWARE "\n");
	if (uname(&u) == 0)
		printf("kernel %s %s\n", u.sysname, u.release);
	if (disk_new(&d) == 0) {
		printf("io_uring: %s\n",
		       disk_fd(d) >= 0 ? "used" : "not permitted, reads from disk block");
		disk_free(d);
	}
#ifdef HAVE_VERBS
	printf("transports: rdma, tcp\n");
#else
	printf("transports: tcp (built without RDMA)\n");
#endif
}

/* --- starting --- */

static int explain_security(const struct kelpd_options *o, unsigned line, int err, char *message,
			    size_t bytes)
{
	if (line)
		snprintf(message, bytes, "%s:%u: not understood", o->security_toml, line);
	else
		snprintf(message, bytes, "%s: %s", o->security_toml ? o->security_toml : "read key",
			 strerror(-err));
	return err;
}

static int open_http(const struct kelpd_options *o, struct http_pool **ret, char *message,
		     size_t bytes)
{
	struct tls_settings tls = { 0 };
	unsigned line = 0;
	int err = tls_settings_read(o->security_toml, &line, &tls);

	if (err)
		return explain_security(o, line, err, message, bytes);
	struct http_config cfg = { .ca_file = tls.ca,
				   .client_cert = tls.cert,
				   .client_key = tls.key,
				   .insecure = tls.insecure };
	err = http_pool_new(&cfg, ret);
	tls_settings_free(&tls);
	return err;
}

static int ask_volume_server(struct kelpd_options *o, char *message, size_t bytes)
{
	char url[ENDPOINT_STR_MAX];
	struct http_pool *http;
	int err = open_http(o, &http, message, bytes);

	if (err)
		return err;
	endpoint_url(&o->volume_server, url);
	err = volume_status_dirs(http, &o->volume_server, deadline_in_ms(VOLUME_SERVER_TIMEOUT_MS),
				 o->dirs, STORE_DIRS_MAX, &o->n_dirs);
	http_pool_free(http);
	if (err == -EPROTO)
		snprintf(message, bytes, "%s: that is not a SeaweedFS volume server", url);
	else if (err)
		snprintf(message, bytes,
			 "%s: the volume server cannot be asked for its directories: %s (--dir "
			 "names them)",
			 url, strerror(-err));
	for (size_t i = 0; i < o->n_dirs && !err; i++) {
		log_info("data directory %s, says %s", o->dirs[i], url);
		if (o->dirs[i][0] == '/')
			continue;
		snprintf(message, bytes,
			 "%s: %s is relative to where the volume server was started; name it with "
			 "--dir",
			 url, o->dirs[i]);
		err = -EINVAL;
	}
	return err;
}

static int open_store(struct kelpd *k, char *message, size_t bytes)
{
	const struct kelpd_options *o = k->options;
	struct store_config cfg = { .dirs = (const char *const *)o->dirs,
				    .n_dirs = o->n_dirs,
				    .idx_dir = o->idx_dir };
	int64_t start_ms = now_ms();
	struct store_stats stats;
	int err = store_open(&cfg, &k->store);

	if (err) {
		snprintf(message, bytes, "cannot read the volumes: %s", strerror(-err));
		return err;
	}
	store_stats(k->store, &stats);
	for (size_t i = 0; i < o->n_dirs; i++)
		log_info("serving %s", o->dirs[i]);
	log_info("%zu volumes, %zu needles, %zu KiB of index, loaded in %" PRId64
		 " ms; %zu volumes are left to the volume server",
		 stats.volumes, stats.needles, stats.index_bytes / KIB, now_ms() - start_ms,
		 stats.refused);
	return 0;
}

/* The first port that works speaks for all in the hello. */
static int describe_port(void *arg, const struct device_port *p)
{
	struct agent *a = arg;
	const struct device_gid *gid = device_best_gid(p);

	if (!p->active)
		return 0;
	snprintf(a->device, sizeof(a->device), "%s", p->device);
	snprintf(a->port_gid, sizeof(a->port_gid), "%s", gid ? gid->text : "");
	a->port_lid = p->lid;
	a->vendor_id = p->vendor_id;
	return 1;
}

/* Who names an address to listen on means no other. */
static void keep_address(struct agent *a, const char *host)
{
	size_t n = 0;

	for (size_t i = 0; i < a->n_addresses; i++)
		if (strcmp(a->addresses[i].host, host) == 0)
			a->addresses[n++] = a->addresses[i];
	a->n_addresses = n;
}

/* Before the TCP listener, whose hello tells of it. Without RDMA there is still that. */
static void listen_for_verbs(struct kelpd *k, const struct listener_config *cfg)
{
	struct agent *a = &k->agent;
	char message[LAUNCH_MESSAGE_BYTES];

	a->n_addresses = device_addresses(cfg->port, a->addresses, WIRE_ADDRESSES_MAX);
	if (a->n_addresses == 0) {
		log_info("no RDMA device with an address here: TCP only");
		return;
	}
	if (cfg->host)
		keep_address(a, cfg->host);
	if (a->n_addresses == 0) {
		log_info("%s is no address of an RDMA device: TCP only", cfg->host);
		return;
	}
	device_walk(describe_port, a);
	if (device_allow_memlock(agent_verbs_locked_bytes(a), message, sizeof(message)))
		log_warning("%s", message);
	int err = agent_verbs.listen(a, cfg, &k->verbs);
	if (err) {
		log_warning("cannot listen for RDMA connections: %s; TCP only", strerror(-err));
		a->n_addresses = 0;
		return;
	}
	for (size_t i = 0; i < a->n_addresses; i++)
		log_info("listening for RDMA on %s, port %u (device %s)", a->addresses[i].host,
			 cfg->port, a->device);
}

static int start_listening(struct kelpd *k, char *message, size_t bytes)
{
	const struct kelpd_options *o = k->options;
	const char *host = o->listen_host ? o->listen_host : "*";
	struct agent_config cfg = { .store = k->store,
				    .tokens = k->tokens,
				    .connections_max = o->connections_max,
				    .idle_ms = o->idle_ms,
				    .staging_bytes_max = o->staging_bytes,
				    .software = SOFTWARE };
	struct listener_config listen = { .host = o->listen_host,
					  .port = o->listen_port,
					  .threads = o->threads };

	agent_init(&k->agent, &cfg);
	listen_for_verbs(k, &listen);
	int err = agent_tcp.listen(&k->agent, &listen, &k->tcp);
	if (err) {
		if (k->verbs)
			agent_verbs.stop(k->verbs, deadline_in_ms(0));
		snprintf(message, bytes, "cannot listen on %s, port %u: %s", host, o->listen_port,
			 strerror(-err));
		return err;
	}
	log_info("listening on %s, port %u (tcp); reads %s", host, o->listen_port,
		 token_has_volume_key(k->tokens) ? "need a token" : "need no token");
	log_info("in effect: max-connections %u, idle-timeout %u s, staging %" PRIu64
		 " MiB, threads %u",
		 o->connections_max, o->idle_ms / 1000, o->staging_bytes / MIB, o->threads);
	return 0;
}

/* Each connection needs a descriptor, also while it is being refused, and each volume two. */
static void check_file_limit(const struct kelpd *k)
{
	struct store_stats stats;
	struct rlimit limit;

	store_stats(k->store, &stats);
	/* For want of descriptors volumes may be among those that are not served. */
	uint64_t needed = (uint64_t)k->options->connections_max + AGENT_REFUSALS_MAX +
			  2 * (stats.volumes + stats.refused) + OTHER_FILES;
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < needed)
		log_warning("%" PRIu64 " open files are permitted; %" PRIu64
			    " may be needed (ulimit -n, LimitNOFILE=)",
			    (uint64_t)limit.rlim_cur, needed);
}

/* --- running --- */

static void report(const char *what, atomic_uint_fast64_t *counter, uint64_t *reported)
{
	uint64_t n = atomic_load(counter);

	if (n > *reported)
		log_warning("%" PRIu64 " %s", n - *reported, what);
	*reported = n;
}

static void report_trouble(struct kelpd *k)
{
	struct agent_counters *c = &k->agent.counters;

	report("connections refused: the limit is reached (--max-connections)", &c->refused,
	       &k->reported.refused);
	report("connections of another protocol version refused", &c->version_refused,
	       &k->reported.version_refused);
	report("connections cut off: not this protocol", &c->malformed, &k->reported.malformed);
	report("connections cut off: their client took no answers", &c->stalled,
	       &k->reported.stalled);
	report("reads denied: token missing, wrong or out of date", &c->by_status[WIRE_DENIED],
	       &k->reported.denied);
	report("reads failed: a record cannot be read or does not hang together",
	       &c->by_status[WIRE_IO], &k->reported.io);
	report("reads refused: what is on the disk does not fit its checksum",
	       &c->by_status[WIRE_CORRUPT], &k->reported.corrupt);
}

static void log_statistics(struct kelpd *k)
{
	struct agent_counters *c = &k->agent.counters;
	struct store_stats s;

	store_stats(k->store, &s);
	log_info("connections %" PRIu64 " (%u now), reads %" PRIu64 " (%" PRIu64 " ok, %" PRIu64
		 " not found, %" PRIu64 " not served), bytes %" PRIu64 " from memory, %" PRIu64
		 " from the page cache",
		 atomic_load(&c->connections), atomic_load(&k->agent.active),
		 atomic_load(&c->reads), atomic_load(&c->by_status[WIRE_OK]),
		 atomic_load(&c->by_status[WIRE_NOT_FOUND]),
		 atomic_load(&c->by_status[WIRE_NOT_SERVED]), atomic_load(&c->bytes_memory),
		 atomic_load(&c->bytes_file));
	log_info("volumes %zu (%zu not served), needles %zu, index %zu KiB, generations replaced "
		 "%" PRIu64,
		 s.volumes, s.refused, s.needles, s.index_bytes / KIB, s.reloads);
}

static void reread_keys(struct kelpd *k)
{
	char message[LAUNCH_MESSAGE_BYTES];
	unsigned line = 0;

	notify_reloading();
	int err = token_source_reload(k->tokens, &line);
	if (err) {
		explain_security(k->options, line, err, message, sizeof(message));
		log_error("%s; the old keys stay", message);
	} else {
		log_info("keys read again; reads %s",
			 token_has_volume_key(k->tokens) ? "need a token" : "need no token");
	}
	notify_manager("READY=1");
}

/* What connections had is the system's again when they are gone: the allocator would keep it. */
static void give_memory_back(struct kelpd *k)
{
	uint64_t ended = atomic_load(&k->agent.counters.connections) -
			 atomic_load(&k->agent.active);

	if (ended != k->ended_before)
		malloc_trim(0);
	k->ended_before = ended;
}

static void serve(struct kelpd *k, const sigset_t *signals)
{
	const struct timespec wait = { .tv_sec = REPORT_S };

	for (;;) {
		int signal = sigtimedwait(signals, NULL, &wait);

		report_trouble(k);
		give_memory_back(k);
		switch (signal) {
		case SIGHUP:
			reread_keys(k);
			break;
		case SIGUSR1:
			log_statistics(k);
			break;
		case SIGTERM:
		case SIGINT:
			return;
		default:
			break;
		}
	}
}

static int start(struct kelpd *k, char *message, size_t bytes)
{
	struct kelpd_options *o = k->options;
	unsigned line = 0;
	int err = token_source_new(o->security_toml, &line, &k->tokens);

	if (err)
		return explain_security(o, line, err, message, bytes);
	if (!o->n_dirs)
		err = ask_volume_server(o, message, bytes);
	if (!err)
		err = open_store(k, message, bytes);
	if (!err)
		err = start_listening(k, message, bytes);
	if (!err)
		check_file_limit(k);
	return err;
}

static int start_status(struct kelpd *k, char *message, size_t bytes)
{
	struct kelpd_status_config cfg = { .options = k->options,
					   .agent = &k->agent,
					   .store = k->store,
					   .has_rdma = k->verbs != NULL };

	return k->options->status.port ? kelpd_status_start(&cfg, &k->status, message, bytes) : 0;
}

static void stop_listening(struct kelpd *k)
{
	if (k->verbs)
		agent_verbs.stop(k->verbs, deadline_in_ms(STOP_TIMEOUT_MS));
	agent_tcp.stop(k->tcp, deadline_in_ms(STOP_TIMEOUT_MS));
}

static int run_kelpd(void *arg, struct launch *l, char *message, size_t bytes)
{
	struct kelpd k = { .options = arg };
	sigset_t signals;

	log_open("kelpd", k.options->debug ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO,
		 !k.options->foreground);
	/* Before any thread: all of them leave these to this one. */
	sigemptyset(&signals);
	sigaddset(&signals, SIGTERM);
	sigaddset(&signals, SIGINT);
	sigaddset(&signals, SIGHUP);
	sigaddset(&signals, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &signals, NULL);
	launch_raise_file_limit();
	int err = start(&k, message, bytes);
	if (!err) {
		err = start_status(&k, message, bytes);
		if (err)
			stop_listening(&k);
	}
	if (!err) {
		launch_report_ready(l);
		notify_manager("READY=1");
		serve(&k, &signals);
		notify_manager("STOPPING=1");
		kelpd_status_stop(k.status);
		stop_listening(&k);
		log_statistics(&k);
		log_info("ended");
	}
	store_close(k.store);
	token_source_free(k.tokens);
	return err;
}

int main(int argc, char *argv[])
{
	char message[LAUNCH_MESSAGE_BYTES];
	struct kelpd_options o;
	int status = EXIT_SUCCESS;

	signal(SIGPIPE, SIG_IGN);
	if (kelpd_options_parse(argc, argv, &o, message, sizeof(message))) {
		fprintf(stderr, "kelpd: %s\n", message);
		return EXIT_FAILURE;
	}
	switch (o.command) {
	case KELPD_HELP:
		kelpd_options_print_help(stdout);
		break;
	case KELPD_VERSION:
		print_version();
		break;
	case KELPD_DUMP_MAN:
		kelpd_options_print_man(stdout);
		break;
	case KELPD_DUMP_METRICS:
		kelpd_metrics_markdown(stdout);
		break;
	case KELPD_SERVE:
		status = launch("kelpd", o.foreground, run_kelpd, &o);
		break;
	}
	kelpd_options_free(&o);
	return status;
}
