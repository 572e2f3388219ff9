#include "tests/support/stage.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define KEPT_MAX 256
#define SERVERS_MAX 16

struct stage {
	void *kept[KEPT_MAX];
	size_t n_kept;
	struct scripted_server *servers[SERVERS_MAX];
	size_t n_servers;
};

static void require(int ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	abort();
}

struct stage *stage_new(void)
{
	struct stage *s = calloc(1, sizeof(*s));

	require(s != NULL, "calloc");
	return s;
}

void stage_free(struct stage *s)
{
	for (size_t i = 0; i < s->n_servers; i++)
		scripted_server_stop(s->servers[i]);
	for (size_t i = 0; i < s->n_kept; i++)
		free(s->kept[i]);
	free(s);
}

static void *keep(struct stage *s, size_t bytes)
{
	void *p = calloc(1, bytes ? bytes : 1);

	require(p != NULL && s->n_kept < KEPT_MAX, "too much kept");
	s->kept[s->n_kept++] = p;
	return p;
}

struct script_step stage_raw(struct stage *s, const void *bytes, size_t len)
{
	void *copy = keep(s, len);

	memcpy(copy, bytes, len);
	return (struct script_step){ .op = SCRIPT_SEND, .bytes = copy, .len = len, .times = 1 };
}

struct script_step stage_answer(struct stage *s, int status, const char *header, const void *body,
				size_t len)
{
	char *head;
	int n = asprintf(&head, "HTTP/1.1 %d Scripted\r\nContent-Length: %zu\r\n%s\r\n", status,
			 len, header);

	require(n > 0, "asprintf");
	char *all = keep(s, (size_t)n + len);
	memcpy(all, head, (size_t)n);
	memcpy(all + n, body, len);
	free(head);
	return (struct script_step){
		.op = SCRIPT_SEND, .bytes = all, .len = (size_t)n + len, .times = 1
	};
}

struct script_step stage_text(struct stage *s, int status, const char *header, const char *body)
{
	return stage_answer(s, status, header, body, strlen(body));
}

struct scripted_server *stage_server(struct stage *s, size_t n_scripts,
				     const struct script_step (*scripts)[STAGE_STEPS_MAX])
{
	size_t bytes = n_scripts * sizeof(*scripts);
	struct script_step(*copy)[STAGE_STEPS_MAX] = keep(s, bytes);
	const struct script_step **list = keep(s, n_scripts * sizeof(*list));

	memcpy(copy, scripts, bytes);
	for (size_t i = 0; i < n_scripts; i++)
		list[i] = copy[i];
	require(s->n_servers < SERVERS_MAX, "too many servers");
	return s->servers[s->n_servers++] = scripted_server_start(list, n_scripts);
}

uint16_t stage_dead_port(void)
{
	static const struct script_step steps[] = { CLOSE() };
	static const struct script_step *const scripts[] = { steps };
	struct scripted_server *s = scripted_server_start(scripts, 1);
	uint16_t port = scripted_server_port(s);

	scripted_server_stop(s);
	return port;
}
