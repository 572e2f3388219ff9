/* The command line of kelpctl. A table of commands and one of options (ctl_options.c) drive parsing,
 * --help and the man page. */
#ifndef KELP_CTL_OPTIONS_H
#define KELP_CTL_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include "filer/endpoint.h"
#include "filer/fid.h"
#include "fs/options.h"

enum ctl_command {
	CTL_NONE,
	CTL_PING,
	CTL_CAPS,
	CTL_DEVICES,
	CTL_LOCATE,
	CTL_READ,
	CTL_BENCH,
	CTL_SERVE,
	CTL_STATS,
	CTL_COMMANDS, /* how many there are */
};

enum ctl_request {
	CTL_RUN,
	CTL_HELP,
	CTL_VERSION,
	CTL_DUMP_MAN,
	CTL_DUMP_METRICS,
};

/* How needles are read; as bits, in the order in which they are tried. */
enum ctl_via {
	VIA_RDMA = 1 << 0,
	VIA_TCP = 1 << 1,
	VIA_HTTP = 1 << 2,
	VIA_PROXY = 1 << 3,
	VIA_END = 1 << 4,
};
#define VIA_AGENT (VIA_RDMA | VIA_TCP)

#define CTL_LIST_MAX 16 /* sizes, depths */
#define CTL_DEPTH_MAX 256
#define CTL_FIDS_MAX 1024
#define CTL_READS_MAX 4096 /* of serve, at once */
#define CTL_NEEDLE_BYTES_MAX ((uint64_t)256 << 20)

/* Strings and fids are owned; free with ctl_options_free(). */
struct ctl_options {
	enum ctl_request request;
	enum ctl_command command;
	bool json;
	bool verbose;
	unsigned timeout_ms;

	bool has_agent;
	struct endpoint agent;
	bool has_server;
	struct endpoint server;
	/* The cluster: filers, masters, keys, certificates; path is that of locate and bench. What does
	 * not concern it is 0. */
	struct options cluster;
	unsigned via; /* of enum ctl_via */
	bool via_any; /* via was not given: all that is possible, as far as this machine goes */

	unsigned count; /* 0: until interrupted */
	unsigned interval_ms;

	struct fid *fids;
	size_t n_fids;
	uint64_t offset;
	uint64_t size; /* 0: to the end */
	bool raw;
	char *output;

	uint64_t sizes[CTL_LIST_MAX];
	size_t n_sizes;
	uint64_t depths[CTL_LIST_MAX];
	size_t n_depths;
	unsigned point_ms;
	unsigned connections;
	char *json_file;

	char *where; /* a mountpoint or an address, as given */
	struct endpoint status; /* where as an address; port 0: it is none */
	bool once;

	struct endpoint listen; /* host "": all addresses */
	bool any_server;
	bool no_token;
	bool claim_rdma;
	unsigned reads_max;
	uint64_t memory_bytes;
	uint64_t decode_bytes;
	unsigned client_ms;
	char *temp_dir; /* NULL: no files are handed over */
	unsigned temp_age_ms;
};

/* As options_parse() in fs/options.h. */
int ctl_options_parse(int argc, char *const argv[], struct ctl_options *ret, char *message,
		      size_t message_bytes);
void ctl_options_free(struct ctl_options *o);

/* command CTL_NONE: all of them. */
void ctl_options_print_help(FILE *out, enum ctl_command command);
void ctl_options_print_man(FILE *out);

/* "tcp"; via is one bit. */
const char *ctl_via_name(unsigned via);

#endif
