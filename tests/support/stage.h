/* Scripts for scripted servers that are written at run time, with answers whose lengths are right;
 * kept, like the servers that play them, until the end of the test.
 *
 *	struct stage *stage = stage_new();
 *	struct scripted_server *s = STAGE_SERVER(
 *		stage, { RECEIVE(), stage_text(stage, 503, "", "later"), AGAIN() });
 *	...
 *	stage_free(stage); */
#ifndef KELP_STAGE_H
#define KELP_STAGE_H

#include <stddef.h>
#include <stdint.h>

#include "tests/support/scripted_server.h"

#define STAGE_STEPS_MAX 8

struct stage;

struct stage *stage_new(void);
/* Stops the servers. */
void stage_free(struct stage *s);

/* Sends a whole answer. header: further lines, each with its CRLF. */
struct script_step stage_answer(struct stage *s, int status, const char *header, const void *body,
				size_t len);
struct script_step stage_text(struct stage *s, int status, const char *header, const char *body);

/* Sends exactly these bytes. */
struct script_step stage_raw(struct stage *s, const void *bytes, size_t len);

/* A server that plays these scripts, as scripted_server_start() does. */
struct scripted_server *stage_server(struct stage *s, size_t n_scripts,
				     const struct script_step (*scripts)[STAGE_STEPS_MAX]);
#define STAGE_SERVER(stage, ...)                                                                   \
	stage_server((stage),                                                                      \
		     sizeof((struct script_step[][STAGE_STEPS_MAX]){ __VA_ARGS__ }) /              \
			     sizeof(struct script_step[STAGE_STEPS_MAX]),                          \
		     (const struct script_step[][STAGE_STEPS_MAX]){ __VA_ARGS__ })

/* A port of this machine at which nobody listens. */
uint16_t stage_dead_port(void);

#endif
