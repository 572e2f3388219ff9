/* Thread model: one thread accepts, one thread per connection plays its script; the lock protects
 * what they share with the test. stop_fd becomes readable when everything is to end. */
#include "tests/support/scripted_server.h"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define CONNECTIONS_MAX 256
#define REQUESTS_MAX 1024
#define REQUEST_BYTES_MAX 65536
#define URL_BYTES 32

struct connection {
	struct scripted_server *server;
	const struct script_step *script;
	pthread_t thread;
	int fd; /* -1: closed; only its own thread changes it, under the server's lock */
};

struct scripted_server {
	const struct script_step *const *scripts;
	size_t n_scripts;
	int listen_fd;
	int stop_fd;
	uint16_t port;
	char url[URL_BYTES];
	pthread_t thread;

	pthread_mutex_t lock; /* protects all below */
	struct connection connections[CONNECTIONS_MAX];
	size_t n_connections;
	char *requests[REQUESTS_MAX];
	size_t n_requests;
};

static void require(bool ok, const char *what)
{
	if (ok)
		return;
	perror(what);
	abort();
}

static void keep_request(struct scripted_server *s, const char *text, size_t len)
{
	char *copy = calloc(1, len + 1);

	require(copy != NULL, "calloc");
	memcpy(copy, text, len);
	pthread_mutex_lock(&s->lock);
	require(s->n_requests < REQUESTS_MAX, "too many requests");
	s->requests[s->n_requests++] = copy;
	pthread_mutex_unlock(&s->lock);
}

/* Bytes of the request that the filled bytes of text begin with; 0 while it is not whole. */
static size_t request_length(const char *text, size_t filled)
{
	const char *end = strstr(text, "\r\n\r\n");
	const char *length = strcasestr(text, "\r\nContent-Length:");

	if (!end)
		return 0;
	size_t total = (size_t)(end - text) + 4;
	if (length && length < end)
		total += strtoul(length + strlen("\r\nContent-Length:"), NULL, 10);
	return filled < total ? 0 : total;
}

/* False: the peer closed, or the server is being stopped. */
static bool receive_request(struct connection *c, char *buf, size_t *filled)
{
	size_t len;

	while ((len = request_length(buf, *filled)) == 0) {
		require(*filled < REQUEST_BYTES_MAX, "request too long");
		ssize_t n = recv(c->fd, buf + *filled, REQUEST_BYTES_MAX - *filled, 0);
		if (n <= 0)
			return false;
		*filled += (size_t)n;
		buf[*filled] = '\0';
	}
	keep_request(c->server, buf, len);
	*filled -= len;
	memmove(buf, buf + len, *filled + 1);
	return true;
}

static bool send_all(int fd, const char *p, size_t len)
{
	while (len > 0) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

static bool send_times(int fd, const struct script_step *step)
{
	for (unsigned i = 0; i < step->times; i++)
		if (!send_all(fd, step->bytes, step->len))
			return false;
	return true;
}

/* False: the server is being stopped. */
static bool pause_ms(struct scripted_server *s, unsigned ms)
{
	struct pollfd stop = { .fd = s->stop_fd, .events = POLLIN };

	return poll(&stop, 1, (int)ms) == 0;
}

static bool trickle(struct connection *c, const struct script_step *step)
{
	for (size_t i = 0; i < step->len; i++)
		if (!send_all(c->fd, step->bytes + i, 1) || !pause_ms(c->server, step->ms))
			return false;
	return true;
}

static void hang(struct connection *c)
{
	char dropped[1024];

	while (recv(c->fd, dropped, sizeof(dropped), 0) > 0)
		;
}

/* False: the script is over. */
static bool play_step(struct connection *c, const struct script_step *step, char *buf,
		      size_t *filled)
{
	struct linger reset = { .l_onoff = 1, .l_linger = 0 };

	switch (step->op) {
	case SCRIPT_RECEIVE:
		return receive_request(c, buf, filled);
	case SCRIPT_SEND:
		return send_times(c->fd, step);
	case SCRIPT_TRICKLE:
		return trickle(c, step);
	case SCRIPT_PAUSE:
		return pause_ms(c->server, step->ms);
	case SCRIPT_HANG:
		hang(c);
		return true;
	case SCRIPT_AGAIN:
		return true;
	case SCRIPT_RESET:
		setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		return false;
	case SCRIPT_CLOSE:
		return false;
	}
	return false;
}

static void *serve(void *arg)
{
	struct connection *c = arg;
	const struct script_step *step = c->script;
	char *buf = calloc(1, REQUEST_BYTES_MAX + 1);
	size_t filled = 0;

	require(buf != NULL, "calloc");
	while (play_step(c, step, buf, &filled))
		step = step->op == SCRIPT_AGAIN ? c->script : step + 1;
	free(buf);
	pthread_mutex_lock(&c->server->lock);
	close(c->fd);
	c->fd = -1;
	pthread_mutex_unlock(&c->server->lock);
	return NULL;
}

static void start_connection(struct scripted_server *s, int fd)
{
	int on = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	pthread_mutex_lock(&s->lock);
	require(s->n_connections < CONNECTIONS_MAX, "too many connections");
	size_t i = s->n_connections++;
	s->connections[i] = (struct connection){
		.server = s,
		.script = s->scripts[i < s->n_scripts ? i : s->n_scripts - 1],
		.fd = fd,
	};
	require(pthread_create(&s->connections[i].thread, NULL, serve, &s->connections[i]) == 0,
		"pthread_create");
	pthread_mutex_unlock(&s->lock);
}

static void *accept_connections(void *arg)
{
	struct scripted_server *s = arg;
	struct pollfd fds[] = {
		{ .fd = s->listen_fd, .events = POLLIN },
		{ .fd = s->stop_fd, .events = POLLIN },
	};

	while (poll(fds, 2, -1) > 0 && !fds[1].revents) {
		int fd = accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0)
			start_connection(s, fd);
	}
	return NULL;
}

static void listen_on_any_port(struct scripted_server *s)
{
	struct sockaddr_in addr = { .sin_family = AF_INET };
	socklen_t len = sizeof(addr);

	addr.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	s->listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	require(s->listen_fd >= 0, "socket");
	require(bind(s->listen_fd, (struct sockaddr *)&addr, sizeof(addr)) == 0, "bind");
	require(listen(s->listen_fd, CONNECTIONS_MAX) == 0, "listen");
	require(getsockname(s->listen_fd, (struct sockaddr *)&addr, &len) == 0, "getsockname");
	s->port = ntohs(addr.sin_port);
	snprintf(s->url, sizeof(s->url), "http://127.0.0.1:%u", s->port);
}

struct scripted_server *scripted_server_start(const struct script_step *const *scripts,
					      size_t n_scripts)
{
	struct scripted_server *s = calloc(1, sizeof(*s));

	require(s != NULL, "calloc");
	s->scripts = scripts;
	s->n_scripts = n_scripts;
	pthread_mutex_init(&s->lock, NULL);
	s->stop_fd = eventfd(0, EFD_CLOEXEC);
	require(s->stop_fd >= 0, "eventfd");
	listen_on_any_port(s);
	require(pthread_create(&s->thread, NULL, accept_connections, s) == 0, "pthread_create");
	return s;
}

void scripted_server_stop(struct scripted_server *s)
{
	require(eventfd_write(s->stop_fd, 1) == 0, "eventfd_write");
	pthread_join(s->thread, NULL);
	pthread_mutex_lock(&s->lock);
	for (size_t i = 0; i < s->n_connections; i++)
		if (s->connections[i].fd >= 0)
			shutdown(s->connections[i].fd, SHUT_RDWR);
	pthread_mutex_unlock(&s->lock);
	/* No connection is added any more, so this needs no lock. */
	for (size_t i = 0; i < s->n_connections; i++)
		pthread_join(s->connections[i].thread, NULL);
	for (size_t i = 0; i < s->n_requests; i++)
		free(s->requests[i]);
	close(s->listen_fd);
	close(s->stop_fd);
	pthread_mutex_destroy(&s->lock);
	free(s);
}

uint16_t scripted_server_port(const struct scripted_server *s)
{
	return s->port;
}

const char *scripted_server_url(const struct scripted_server *s)
{
	return s->url;
}

size_t scripted_server_connections(struct scripted_server *s)
{
	pthread_mutex_lock(&s->lock);
	size_t n = s->n_connections;
	pthread_mutex_unlock(&s->lock);
	return n;
}

size_t scripted_server_requests(struct scripted_server *s)
{
	pthread_mutex_lock(&s->lock);
	size_t n = s->n_requests;
	pthread_mutex_unlock(&s->lock);
	return n;
}

const char *scripted_server_request(struct scripted_server *s, size_t i)
{
	pthread_mutex_lock(&s->lock);
	require(i < s->n_requests, "no such request");
	const char *text = s->requests[i];
	pthread_mutex_unlock(&s->lock);
	return text;
}
