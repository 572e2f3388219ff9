/* How a program of ours starts: in the foreground, or as a daemon whose parent waits until it can be
 * used, and reports in one line why it cannot. */
#ifndef KELP_LAUNCH_H
#define KELP_LAUNCH_H

#include <stdbool.h>
#include <stddef.h>

#define LAUNCH_MESSAGE_BYTES 1024

struct launch {
	int report_fd; /* where the parent waits for one line; -1: nobody does */
};

/* Calls run, which opens the log and returns 0 or -errno with a message, when the program ends. As a
 * daemon it runs in a child, forked before any thread, connection or registered memory exists. Returns
 * the exit status of the program; in the parent of a daemon that of the launch. */
int launch(const char *program, bool foreground,
	   int (*run)(void *arg, struct launch *l, char *message, size_t bytes), void *arg);

/* A program with many connections may open as many files as it is permitted at all. */
void launch_raise_file_limit(void);

/* To be called once by run: the program can be used. Returns false where no parent waits for it. */
bool launch_report_ready(struct launch *l);

#endif
