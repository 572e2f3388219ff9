#include "fs/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/log.h"

/* The line is empty when the program can be used. */
bool launch_report_ready(struct launch *l)
{
	if (l->report_fd < 0)
		return false;
	ssize_t n = write(l->report_fd, "", 1);
	(void)n;
	close(l->report_fd);
	l->report_fd = -1;
	return true;
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

typedef int (*run_fn)(void *arg, struct launch *l, char *message, size_t bytes);

static int run_foreground(const char *program, run_fn run, void *arg)
{
	struct launch l = { .report_fd = -1 };
	char message[LAUNCH_MESSAGE_BYTES] = "";

	if (run(arg, &l, message, sizeof(message)) == 0)
		return EXIT_SUCCESS;
	fprintf(stderr, "%s: %s\n", program, message);
	return EXIT_FAILURE;
}

/* In the child. The parent has the message; the log has it, should the parent be gone. */
static int run_daemon(run_fn run, void *arg, int report_fd)
{
	struct launch l = { .report_fd = report_fd };
	char message[LAUNCH_MESSAGE_BYTES] = "";

	detach_from_terminal();
	if (run(arg, &l, message, sizeof(message)) == 0)
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
static int wait_for_child(const char *program, pid_t child, int report_fd)
{
	char message[LAUNCH_MESSAGE_BYTES];
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
	fprintf(stderr, "%s: %s\n", program, n ? message : "ended before it could be used");
	return EXIT_FAILURE;
}

int launch(const char *program, bool foreground, run_fn run, void *arg)
{
	int fds[2];

	if (foreground)
		return run_foreground(program, run, arg);
	if (pipe2(fds, O_CLOEXEC)) {
		fprintf(stderr, "%s: pipe: %s\n", program, strerror(errno));
		return EXIT_FAILURE;
	}
	pid_t child = fork();
	if (child < 0) {
		fprintf(stderr, "%s: fork: %s\n", program, strerror(errno));
		return EXIT_FAILURE;
	}
	close(fds[child != 0]);
	return child ? wait_for_child(program, child, fds[0]) : run_daemon(run, arg, fds[1]);
}

void launch_raise_file_limit(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) || limit.rlim_cur == limit.rlim_max)
		return;
	limit.rlim_cur = limit.rlim_max;
	setrlimit(RLIMIT_NOFILE, &limit);
}
