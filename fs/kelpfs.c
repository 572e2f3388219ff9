/* kelpfs: mounts a SeaweedFS namespace. */
#include <curl/curl.h>
#include <fuse_lowlevel.h>
#include <malloc.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "fs/launch.h"
#include "fs/log.h"
#include "fs/mount.h"
#include "fs/mount_metrics.h"
#include "fs/options.h"

/* Names are made and forgotten by any thread. Each arena of the allocator keeps what is free in it, so that
 * more of them cost memory; a read allocates nothing but where the slab is full. */
#define ARENAS_MAX 4

static void print_version(void)
{
	struct utsname u;

	printf("kelpfs %s\n", KELP_VERSION);
	printf("built with libfuse %d.%d, running with %s\n", FUSE_MAJOR_VERSION,
	       FUSE_MINOR_VERSION, fuse_pkgversion());
	printf("%s\n", curl_version());
	if (uname(&u) == 0)
		printf("kernel %s %s, /dev/fuse %s\n", u.sysname, u.release,
		       access("/dev/fuse", R_OK | W_OK) == 0 ? "can be used" : "cannot be used");
	printf("splice: available, used with -o splice=on\n");
}

static void open_log(const struct options *o)
{
	bool to_syslog = o->log == LOG_TARGET_SYSLOG ||
			 (o->log == LOG_TARGET_AUTO && !o->foreground);

	log_open("kelpfs", o->debug ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, to_syslog);
}

static void mounted(void *arg)
{
	if (!launch_report_ready(arg))
		log_info("mounted");
}

static int mount_and_serve(void *arg, struct launch *l, char *message, size_t bytes)
{
	const struct options *o = arg;

	open_log(o);
	return mount_run(o, mounted, l, message, bytes);
}

static int run(struct options *o)
{
	switch (o->command) {
	case COMMAND_HELP:
		options_print_help(stdout);
		return EXIT_SUCCESS;
	case COMMAND_VERSION:
		print_version();
		return EXIT_SUCCESS;
	case COMMAND_DUMP_MAN:
		options_print_man(stdout);
		return EXIT_SUCCESS;
	case COMMAND_DUMP_METRICS:
		mount_metrics_markdown(stdout);
		return EXIT_SUCCESS;
	case COMMAND_MOUNT:
		break;
	}
	return launch("kelpfs", o->foreground, mount_and_serve, o);
}

int main(int argc, char *argv[])
{
	char message[LAUNCH_MESSAGE_BYTES];
	struct options o;

	mallopt(M_ARENA_MAX, ARENAS_MAX);
	/* A connection that the other side closed must be an error, not the end. */
	signal(SIGPIPE, SIG_IGN);
	if (options_parse(argc, argv, &o, message, sizeof(message))) {
		fprintf(stderr, "kelpfs: %s\n", message);
		return EXIT_FAILURE;
	}
	int status = run(&o);
	options_free(&o);
	return status;
}
