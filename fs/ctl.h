/* The commands of kelpctl, and what they share. Each command returns 0, or -errno with one line that
 * says what is wrong and what to do. */
#ifndef KELP_CTL_H
#define KELP_CTL_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cjson/cJSON.h>

#include "filer/endpoint.h"
#include "fs/ctl_options.h"

#define CTL_MESSAGE_BYTES 2048

int ctl_ping(const struct ctl_options *o, char *message, size_t bytes);
int ctl_caps(const struct ctl_options *o, char *message, size_t bytes);
int ctl_devices(const struct ctl_options *o, char *message, size_t bytes);
int ctl_locate(const struct ctl_options *o, char *message, size_t bytes);
int ctl_read(const struct ctl_options *o, char *message, size_t bytes);
int ctl_serve(const struct ctl_options *o, char *message, size_t bytes);
int ctl_stats(const struct ctl_options *o, char *message, size_t bytes);
int ctl_bench(const struct ctl_options *o, char *message, size_t bytes);

/* message = text; returns err. */
int ctl_fail(int err, char *message, size_t bytes, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

/* "host:port". */
void ctl_endpoint_name(const struct endpoint *e, char buf[ENDPOINT_STR_MAX]);

/* cJSON keeps numbers as doubles; this keeps all 64 bits. */
void ctl_json_u64(cJSON *object, const char *name, uint64_t value);

/* Writes the tree and frees it. Returns 0, -ENOMEM or -EIO. */
int ctl_json_print(FILE *out, cJSON *tree);

#endif
