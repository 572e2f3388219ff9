/* The command line of kelpfs. One table (options.c) drives parsing, --help, the man page and the
 * record of where each value came from. */
#ifndef KELP_OPTIONS_H
#define KELP_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/types.h>

#include "filer/endpoint.h"
#include "filer/filer.h"

#define OPTION_MASTERS_MAX 16
#define OPTION_ID_MAPS_MAX 64
#define OPTION_VALUE_MAX_BYTES 4096

enum tristate {
	TRI_OFF,
	TRI_ON,
	TRI_AUTO,
};

enum volume_access {
	VOLUME_DIRECT,
	VOLUME_PUBLIC,
	VOLUME_PROXY,
};

enum agent_mode {
	AGENT_OFF,
	AGENT_AUTO,
	AGENT_REQUIRE,
};

#define RDMA_TOS_SYSTEM 256

/* What open() goes by. */
enum consistency {
	CONSISTENCY_OPEN, /* what the filer answers then */
	CONSISTENCY_EVENTS, /* what its change events have said so far */
};

enum verify_mode {
	VERIFY_OFF,
	VERIFY_MD5,
};

/* Those that the administrator has set aside. */
enum huge_pages {
	HUGE_PAGES_AUTO, /* where all of the slab fits into them */
	HUGE_PAGES_OFF,
};

enum log_target {
	LOG_TARGET_AUTO,
	LOG_TARGET_STDERR,
	LOG_TARGET_SYSLOG,
};

enum option_source {
	OPTION_DEFAULT,
	OPTION_COMMAND_LINE,
};

/* Shows filer id `filer` as `local`. */
struct id_map {
	uint32_t local;
	uint32_t filer;
};

struct id_maps {
	struct id_map map[OPTION_ID_MAPS_MAX];
	size_t n;
};

enum options_command {
	COMMAND_MOUNT,
	COMMAND_HELP,
	COMMAND_VERSION,
	COMMAND_DUMP_MAN,
	COMMAND_DUMP_METRICS,
};

/* Strings are owned; free with options_free(). */
struct options {
	enum options_command command;
	char *source; /* as given */
	char *mountpoint;
	struct endpoint filers[FILERS_MAX];
	size_t n_filers;
	char *path; /* in the filer's namespace: "/" or without trailing slash */
	bool foreground;
	bool debug;

	struct endpoint masters[OPTION_MASTERS_MAX];
	size_t n_masters;
	struct id_maps uid_maps;
	struct id_maps gid_maps;

	double attr_timeout_s;
	double entry_timeout_s;
	double negative_timeout_s;
	enum consistency consistency;
	unsigned timeout_ms;
	unsigned connect_timeout_ms;
	unsigned stall_timeout_ms;

	uint64_t slab_bytes;
	enum huge_pages huge_pages;
	uint64_t readahead_bytes;
	char *cache_dir; /* NULL: no SSD tier */
	uint64_t cache_bytes;
	unsigned prefetch_threads;
	unsigned threads;
	uint64_t max_read_bytes;
	unsigned max_background;
	unsigned readahead_kb; /* of the kernel's bdi; UINT_MAX: choose */
	enum tristate splice;
	bool clone_fd;
	bool direct_io;
	unsigned list_page;
	bool system_entries;
	bool nonempty;
	enum tristate control; /* off or on: the hidden directory of fs/control.h */
	struct endpoint status; /* port 0: none; host "": all addresses */

	char *security_toml;
	char *tls_ca;
	char *tls_cert;
	char *tls_key;
	enum volume_access volume_access;
	enum verify_mode verify;
	enum agent_mode agent;
	enum agent_mode rdma;
	char *rdma_map;
	char *rdma_device;
	unsigned rdma_tos; /* RDMA_TOS_SYSTEM: the system's */
	unsigned agent_port;
	bool agents_always; /* volume servers are also named by others than masters */
	enum log_target log;

	uint64_t given; /* bit i: the i-th of the table was on the command line */
	char *fuse_options; /* what libfuse and the kernel are given, comma-separated */
};

/* Parses argv. On failure returns -EINVAL (or -ENOMEM) and a message, without newline, that names
 * what is wrong and what to do; *ret then holds nothing to free. */
int options_parse(int argc, char *const argv[], struct options *ret, char *message,
		  size_t message_bytes);
void options_free(struct options *o);

/* Splits FILER[,FILER...][/PATH] or host:port:/PATH. Errors as above. */
int options_parse_source(const char *source, struct options *ret, char *message,
			 size_t message_bytes);

void options_print_help(FILE *out);

/* The option table as man page source. */
void options_print_man(FILE *out);

/* Calls cb for each option with its effective value as text and where it came from. */
void options_each(const struct options *o,
		  void (*cb)(void *arg, const char *name, const char *value,
			     enum option_source source),
		  void *arg);

#endif
