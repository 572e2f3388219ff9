/* The command line of kelpd. One table (kelpd_options.c) drives parsing, --help and the man page. */
#ifndef KELP_KELPD_OPTIONS_H
#define KELP_KELPD_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "filer/endpoint.h"
#include "rdma/agent/store.h"

enum kelpd_command {
	KELPD_SERVE,
	KELPD_HELP,
	KELPD_VERSION,
	KELPD_DUMP_MAN,
	KELPD_DUMP_METRICS,
};

/* Strings are owned; free with kelpd_options_free(). */
struct kelpd_options {
	enum kelpd_command command;
	char *dirs[STORE_DIRS_MAX]; /* absolute */
	size_t n_dirs;
	char *idx_dir; /* absolute, or NULL */
	char *listen_host; /* NULL: all addresses */
	uint16_t listen_port;
	bool has_volume_server;
	struct endpoint volume_server;
	char *security_toml;
	unsigned connections_max;
	unsigned idle_ms;
	uint64_t staging_bytes;
	unsigned threads;
	struct endpoint status; /* port 0: none; host "": all addresses */
	bool foreground;
	bool debug;
};

/* As options_parse() in fs/options.h. */
int kelpd_options_parse(int argc, char *const argv[], struct kelpd_options *ret, char *message,
			size_t message_bytes);
void kelpd_options_free(struct kelpd_options *o);

void kelpd_options_print_help(FILE *out);
void kelpd_options_print_man(FILE *out);

#endif
