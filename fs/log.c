#include "fs/log.h"

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <syslog.h>

#include "filer/base/base.h"

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

static void log_valist(enum log_level level, const char *format, va_list ap)
{
	static const int priorities[] = { LOG_ERR, LOG_WARNING, LOG_INFO, LOG_DEBUG };
	static const char *const names[] = { "error: ", "warning: ", "", "debug: " };
	char line[LOG_LINE_MAX_BYTES];

	if (!log_wants(level))
		return;
	vsnprintf(line, sizeof(line), format, ap);
	make_printable(line);
	if (log_to_syslog)
		syslog(priorities[level], "%s%s", names[level], line);
	else
		fprintf(stderr, "%s: %s%s\n", log_program, names[level], line);
}

void log_line(enum log_level level, const char *format, ...)
{
	va_list ap;

	va_start(ap, format);
	log_valist(level, format, ap);
	va_end(ap);
}

/* Says whether a limited line may be written now, and how many were not since the last one. */
static bool limit_allows(unsigned *ret_left_out)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* protects the three below */
	static int64_t second_ms;
	static unsigned written, left_out;

	LOCK_SCOPE(&lock);
	int64_t now = now_ms();
	if (now - second_ms >= 1000) {
		second_ms = now;
		written = 0;
	}
	if (written == LOG_LIMIT_PER_S) {
		left_out++;
		return false;
	}
	written++;
	*ret_left_out = left_out;
	left_out = 0;
	return true;
}

void log_warning_limited(const char *format, ...)
{
	unsigned left_out;
	va_list ap;

	if (!limit_allows(&left_out))
		return;
	if (left_out)
		log_warning("%u more messages were left out", left_out);
	va_start(ap, format);
	log_valist(LOG_LEVEL_WARNING, format, ap);
	va_end(ap);
}
