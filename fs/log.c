#include "fs/log.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <syslog.h>

/* Longer messages are cut: a path may be of any length. */
#define LOG_LINE_MAX_BYTES 2048

/* Written once by log_open(), before any thread is started. */
static const char *log_program = "kelpfs";
static enum log_level log_max_level = LOG_LEVEL_INFO;
static bool log_to_syslog;

void log_open(const char *program, enum log_level max_level, bool to_syslog)
{
	log_program = program;
	log_max_level = max_level;
	log_to_syslog = to_syslog;
	if (to_syslog)
		openlog(program, LOG_PID, LOG_DAEMON);
}

bool log_wants(enum log_level level)
{
	return level <= log_max_level;
}

/* Names come from the network: a newline or an escape sequence in one must not forge a line. */
static void make_printable(char *s)
{
	for (; *s; s++) {
		unsigned char c = (unsigned char)*s;

		if (c < 0x20 || c == 0x7f)
			*s = '?';
	}
}

void log_line(enum log_level level, const char *format, ...)
{
	static const int priorities[] = { LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG };
	static const char *const names[] = { "error: ", "warning: ", "", "debug: " };
	char line[LOG_LINE_MAX_BYTES];
	va_list ap;

	if (!log_wants(level))
		return;
	va_start(ap, format);
	vsnprintf(line, sizeof(line), format, ap);
	va_end(ap);
	make_printable(line);
	if (log_to_syslog)
		syslog(priorities[level], "%s%s", names[level], line);
	else
		fprintf(stderr, "%s: %s%s\n", log_program, names[level], line);
}
