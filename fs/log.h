/* One line an event, to stderr or syslog. The programs log; libraries return errors.
 *
 * Thread-safe. Never pass a secret: tokens and keys have no business here. */
#ifndef KELP_LOG_H
#define KELP_LOG_H

#include <stdbool.h>

enum log_level {
	LOG_LEVEL_ERROR,
	LOG_LEVEL_WARNING,
	LOG_LEVEL_INFO,
	LOG_LEVEL_DEBUG,
};

/* program must outlive the process's logging. to_syslog: for daemons. */
void log_open(const char *program, enum log_level max_level, bool to_syslog);

bool log_wants(enum log_level level);

void log_line(enum log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* For failures that an application can cause as fast as it likes: at most LOG_LIMIT_PER_S lines a
 * second, then one that says how many were left out. */
#define LOG_LIMIT_PER_S 10
void log_warning_limited(const char *format, ...) __attribute__((format(printf, 1, 2)));

#define log_error(...) log_line(LOG_LEVEL_ERROR, __VA_ARGS__)
#define log_warning(...) log_line(LOG_LEVEL_WARNING, __VA_ARGS__)
#define log_info(...) log_line(LOG_LEVEL_INFO, __VA_ARGS__)
#define log_debug(...) log_line(LOG_LEVEL_DEBUG, __VA_ARGS__)

#endif
