/* kelpfs: mounts a SeaweedFS namespace. */
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/log.h"
#include "fs/mount.h"
#include "fs/options.h"

#define MESSAGE_BYTES 1024

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

/* Where the parent of a daemon waits for one line: empty when the mount can be used, else the reason
 * why not. -1 in the foreground. */
struct launch {
	int report_fd;
};

static void report_ready(void *arg)
{
	struct launch *l = arg;
	ssize_t n;

	if (l->report_fd < 0) {
		log_info("mounted");
		return;
	}
	n = write(l->report_fd, "", 1);
	(void)n;
	close(l->report_fd);
	l->report_fd = -1;
}

static void detach_from_terminal(void)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	setsid();
	if (chdir("/"))
		log_warning("cannot change to /: %s", strerror(errno));
	if (null >= 0) {
		dup2(null, STDIN_FILENO);
		dup2(null, STDOUT_FILENO);
		dup2(null, STDERR_FILENO);
		if (null > STDERR_FILENO)
			close(null);
	}
}

static void open_log(const struct options *o)
{
	bool to_syslog = o->log == LOG_TARGET_SYSLOG ||
			 (o->log == LOG_TARGET_AUTO && !o->foreground);

	log_open("kelpfs", o->debug ? LOG_LEVEL_DEBUG : LOG_LEVEL_INFO, to_syslog);
}

static int run_foreground(const struct options *o)
{
	struct launch l = { .report_fd = -1 };
	char message[MESSAGE_BYTES];

	open_log(o);
	if (mount_run(o, report_ready, &l, message, sizeof(message)) == 0)
		return EXIT_SUCCESS;
	fprintf(stderr, "kelpfs: %s\n", message);
	return EXIT_FAILURE;
}

/* In the child. The parent has the message; the log has it too, should the parent be gone. */
static int run_daemon(const struct options *o, int report_fd)
{
	struct launch l = { .report_fd = report_fd };
	char message[MESSAGE_BYTES];

	detach_from_terminal();
	open_log(o);
	if (mount_run(o, report_ready, &l, message, sizeof(message)) == 0)
		return EXIT_SUCCESS;
	if (l.report_fd >= 0) {
		ssize_t n = write(l.report_fd, message, strlen(message) + 1);

		(void)n;
	} else {
		log_error("%s", message);
	}
	return EXIT_FAILURE;
}

/* In the parent: returns once the child has said how it went. */
static int wait_for_child(pid_t child, int report_fd)
{
	char message[MESSAGE_BYTES];
	size_t n = 0;
	ssize_t got;

	while (n < sizeof(message) - 1 &&
	       (got = read(report_fd, message + n, sizeof(message) - 1 - n)) != 0) {
		if (got < 0 && errno != EINTR)
			break;
		n += got > 0 ? (size_t)got : 0;
		if (n && !message[n - 1])
			break;
	}
	message[n] = '\0';
	if (n == 1)
		return EXIT_SUCCESS;
	waitpid(child, NULL, 0);
	fprintf(stderr, "kelpfs: %s\n", n ? message : "ended before the mount could be used");
	return EXIT_FAILURE;
}

/* Forks before any thread, connection or registered memory exists. */
static int daemonize(const struct options *o)
{
	int fds[2];

	if (pipe2(fds, O_CLOEXEC)) {
		fprintf(stderr, "kelpfs: pipe: %s\n", strerror(errno));
		return EXIT_FAILURE;
	}
	pid_t child = fork();
	if (child < 0) {
		fprintf(stderr, "kelpfs: fork: %s\n", strerror(errno));
		return EXIT_FAILURE;
	}
	close(fds[child != 0]);
	return child ? wait_for_child(child, fds[0]) : run_daemon(o, fds[1]);
}

static int run(const struct options *o)
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
	case COMMAND_DUMP_MARKDOWN:
		options_print_markdown(stdout);
		return EXIT_SUCCESS;
	case COMMAND_MOUNT:
		break;
	}
	return o->foreground ? run_foreground(o) : daemonize(o);
}

int main(int argc, char *argv[])
{
	char message[MESSAGE_BYTES];
	struct options o;

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
