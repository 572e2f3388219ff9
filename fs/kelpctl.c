/* kelpctl: the hand tool. */
#include <curl/curl.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/ctl.h"
#include "fs/ctl_options.h"
#include "fs/ctl_serve.h"
#include "rdma/device.h"

#define EXIT_USAGE 2

static int (*const commands[CTL_COMMANDS])(const struct ctl_options *o, char *message,
					   size_t bytes) = {
	[CTL_PING] = ctl_ping,     [CTL_CAPS] = ctl_caps,   [CTL_DEVICES] = ctl_devices,
	[CTL_LOCATE] = ctl_locate, [CTL_READ] = ctl_read,   [CTL_BENCH] = ctl_bench,
	[CTL_SERVE] = ctl_serve,   [CTL_STATS] = ctl_stats,
};

static int ignore_port(void *arg, const struct device_port *p)
{
	(void)arg;
	(void)p;
	return 0;
}

static void print_version(void)
{
	printf("kelpctl %s\n%s\ntransports: tcp%s\n", KELP_VERSION, curl_version(),
	       device_walk(ignore_port, NULL) == -EOPNOTSUPP ? "" : ", rdma");
}

static int run(const struct ctl_options *o)
{
	char message[CTL_MESSAGE_BYTES] = "";
	int err = commands[o->command](o, message, sizeof(message));

	if (!err && fflush(stdout) != 0)
		err = ctl_fail(-errno, message, sizeof(message), "standard output: %s",
			       strerror(errno));
	if (!err)
		return EXIT_SUCCESS;
	fprintf(stderr, "kelpctl: %s\n", message[0] ? message : strerror(-err));
	return EXIT_FAILURE;
}

int main(int argc, char *argv[])
{
	char message[CTL_MESSAGE_BYTES];
	struct ctl_options o;
	int status = EXIT_SUCCESS;

	/* A connection that the other side closed must be an error, not the end. */
	signal(SIGPIPE, SIG_IGN);
	if (ctl_options_parse(argc, argv, &o, message, sizeof(message))) {
		fprintf(stderr, "kelpctl: %s\n", message);
		return EXIT_USAGE;
	}
	switch (o.request) {
	case CTL_HELP:
		ctl_options_print_help(stdout, o.command);
		break;
	case CTL_VERSION:
		print_version();
		break;
	case CTL_DUMP_MAN:
		ctl_options_print_man(stdout);
		break;
	case CTL_DUMP_METRICS:
		serve_metrics_markdown(stdout);
		break;
	case CTL_RUN:
		status = run(&o);
		break;
	}
	ctl_options_free(&o);
	return status;
}
