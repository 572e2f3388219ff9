#include "fs/rdma_map.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "filer/base/base.h"
#include "rdma/wire.h"

struct mapping {
	struct endpoint server;
	struct endpoint agent;
	size_t line;
};

struct rdma_map {
	size_t n, room;
	struct mapping *mappings; /* sorted by server, once all are there */
};

struct parser {
	const char *path;
	size_t line;
	char *message;
	size_t message_bytes;
};

static int fail(const struct parser *p, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
static int fail(const struct parser *p, const char *format, ...)
{
	char text[160];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	snprintf(p->message, p->message_bytes, "%s:%zu: %s", p->path, p->line, text);
	return -EINVAL;
}

/* The next word of a line, or one of length 0. A # begins a comment. */
static const char *next_word(const char **at, const char *end, size_t *ret_len)
{
	const char *p = *at;

	while (p < end && (*p == ' ' || *p == '\t' || *p == '\r'))
		p++;
	const char *word = p;
	if (p < end && *p == '#')
		end = p;
	while (p < end && *p != ' ' && *p != '\t' && *p != '\r' && *p != '#')
		p++;
	*at = p;
	*ret_len = (size_t)(p - word);
	return word;
}

static int parse_address(const struct parser *p, const char *word, size_t len, uint16_t port,
			 const char *what, struct endpoint *ret)
{
	/* A scheme means nothing here. */
	if (memchr(word, '/', len) || endpoint_parse(word, len, port, ret))
		return fail(p, "%s is expected, not %.*s", what, (int)min_u64(len, 60), word);
	return 0;
}

static int add(const struct parser *p, struct rdma_map *m, const struct mapping *mapping)
{
	if (m->n == RDMA_MAP_LINES_MAX)
		return fail(p, "more than %d volume servers", RDMA_MAP_LINES_MAX);
	if (m->n == m->room) {
		size_t room = m->room ? 2 * m->room : 16;
		struct mapping *more = realloc(m->mappings, room * sizeof(*more));

		if (!more)
			return -ENOMEM;
		m->mappings = more;
		m->room = room;
	}
	m->mappings[m->n++] = *mapping;
	return 0;
}

static int parse_line(const struct parser *p, const char *at, const char *end, struct rdma_map *m)
{
	struct mapping mapping = { .line = p->line };
	size_t server_len, agent_len, more;
	const char *server = next_word(&at, end, &server_len);
	const char *agent = next_word(&at, end, &agent_len);

	if (server_len == 0)
		return 0;
	if (agent_len == 0)
		return fail(p, "expected VOLUME_SERVER_HOST:PORT RDMA_ADDRESS[:PORT]");
	next_word(&at, end, &more);
	if (more > 0)
		return fail(p, "more than two addresses");
	int err = parse_address(p, server, server_len, 0, "a volume server's HOST:PORT",
				&mapping.server);
	if (!err)
		err = parse_address(p, agent, agent_len, WIRE_PORT, "an ADDRESS[:PORT] for RDMA",
				    &mapping.agent);
	return err ? err : add(p, m, &mapping);
}

static int compare(const void *left, const void *right)
{
	const struct endpoint *a = left, *b = right;
	int order = strcasecmp(a->host, b->host);

	return order ? order : (int)a->port - (int)b->port;
}

/* mapping.server comes first in it. */
_Static_assert(offsetof(struct mapping, server) == 0, "mappings are compared by their servers");

static int sort(struct parser *p, struct rdma_map *m)
{
	if (m->n == 0)
		return 0;
	qsort(m->mappings, m->n, sizeof(m->mappings[0]), compare);
	for (size_t i = 1; i < m->n; i++) {
		const struct mapping *a = &m->mappings[i - 1], *b = &m->mappings[i];

		if (compare(a, b) != 0)
			continue;
		p->line = max_u64(a->line, b->line);
		return fail(p, "the same volume server as in line %zu",
			    (size_t)min_u64(a->line, b->line));
	}
	return 0;
}

int rdma_map_parse(const char *text, size_t len, const char *path, struct rdma_map **ret,
		   char *message, size_t message_bytes)
{
	struct parser p = { .path = path, .message = message, .message_bytes = message_bytes };
	const char *end = text + len;
	struct rdma_map *m = calloc(1, sizeof(*m));
	int err = 0;

	if (!m)
		return -ENOMEM;
	for (const char *at = text; at < end && !err; at++) {
		const char *newline = memchr(at, '\n', (size_t)(end - at));
		const char *line_end = newline ? newline : end;

		p.line++;
		err = parse_line(&p, at, line_end, m);
		at = line_end;
	}
	if (!err)
		err = sort(&p, m);
	if (err) {
		rdma_map_free(m);
		return err;
	}
	*ret = m;
	return 0;
}

int rdma_map_read(const char *path, struct rdma_map **ret, char *message, size_t message_bytes)
{
	CLEANUP_FREE char *text = malloc(RDMA_MAP_BYTES_MAX + 1);
	struct stat st;
	ssize_t len = 0;
	int err = 0;

	if (!text)
		return -ENOMEM;
	/* Whoever opens a FIFO waits for a writer. */
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0 || fstat(fd, &st))
		err = -errno;
	else if (!S_ISREG(st.st_mode))
		err = S_ISDIR(st.st_mode) ? -EISDIR : -EINVAL;
	else
		len = read_up_to(fd, text, RDMA_MAP_BYTES_MAX + 1);
	if (len < 0)
		err = (int)len;
	else if ((size_t)len > RDMA_MAP_BYTES_MAX)
		err = -EFBIG;
	if (fd >= 0)
		close(fd);
	if (err) {
		snprintf(message, message_bytes, "%s: %s", path,
			 err == -EINVAL ? "not a file" : strerror(-err));
		return err;
	}
	return rdma_map_parse(text, (size_t)len, path, ret, message, message_bytes);
}

bool rdma_map_find(const struct rdma_map *m, const struct endpoint *server, struct endpoint *ret)
{
	const struct mapping *found = m->n ? bsearch(server, m->mappings, m->n,
						     sizeof(m->mappings[0]), compare)
					   : NULL;

	if (found)
		*ret = found->agent;
	return found != NULL;
}

size_t rdma_map_count(const struct rdma_map *m)
{
	return m->n;
}

void rdma_map_free(struct rdma_map *m)
{
	if (!m)
		return;
	free(m->mappings);
	free(m);
}
