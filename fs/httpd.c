/* Threads: libmicrohttpd has one for all connections, or (blocking) one for each and one that accepts.
 * The reaper ends connections that take too long: libmicrohttpd's own limit starts again with every byte
 * that comes, which a client that sends one a second never reaches. */
#include "fs/httpd.h"

#include <errno.h>
#include <microhttpd.h>
#include <netinet/in.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utlist.h>

#include <cjson/cJSON.h>

#include "filer/base/base.h"
#include "filer/base/listen.h"

#define BACKLOG 128
#define REAP_MS 1000
/* Request line and headers together; libmicrohttpd answers 414 or 431 beyond. */
#define CONNECTION_BYTES_MAX (32 * KIB)
#define ERROR_BYTES_MAX 1024
#define STREAM_PIECE_BYTES (64 * KIB)

/* One connection, between the kernel and libmicrohttpd. */
struct link {
	int fd; /* open as long as this is in the list */
	bool answering; /* the request has come whole */
	int64_t since_ms; /* ... or, if it has not, when the connection began to wait for one */
	struct link *prev, *next;
};

struct httpd {
	/* Immutable while threads run. */
	const struct httpd_route *routes;
	size_t n_routes;
	void *arg;
	unsigned idle_ms, reply_ms;
	uint16_t port;
	struct MHD_Daemon *daemon;
	pthread_t reaper;

	pthread_mutex_t lock; /* protects all below; nothing is taken under it */
	pthread_cond_t changed;
	struct link *links;
	bool draining; /* connections that wait for a request end */
	bool stopping;
};

struct httpd_request {
	struct MHD_Connection *connection;
	const char *method;
	enum MHD_Result result; /* MHD_NO: the connection is cut */
};

/* --- addresses --- */

int httpd_parse_address(const char *text, struct endpoint *ret)
{
	char with_host[ENDPOINT_STR_MAX];
	bool all = text[0] == ':' || strncmp(text, "*:", 2) == 0;
	bool port_only = text[0] && text[strspn(text, "0123456789")] == '\0';
	struct endpoint e;

	if (strstr(text, "://"))
		return -EINVAL;
	if (all || port_only) {
		int n = snprintf(with_host, sizeof(with_host), "127.0.0.1:%s",
				 all ? strchr(text, ':') + 1 : text);

		if (n >= (int)sizeof(with_host))
			return -EINVAL;
		text = with_host;
	}
	if (endpoint_parse(text, strlen(text), 0, &e))
		return -EINVAL;
	if (all)
		e.host[0] = '\0';
	*ret = e;
	return 0;
}

/* --- connections --- */

static struct link *link_of(struct MHD_Connection *connection)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(
		connection, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return info ? info->socket_context : NULL;
}

static void connection_changed(void *arg, struct MHD_Connection *connection, void **context,
			       enum MHD_ConnectionNotificationCode what)
{
	struct httpd *h = arg;
	struct link *l = *context;

	if (what == MHD_CONNECTION_NOTIFY_STARTED) {
		const union MHD_ConnectionInfo *info = MHD_get_connection_info(
			connection, MHD_CONNECTION_INFO_CONNECTION_FD);

		l = info ? calloc(1, sizeof(*l)) : NULL;
		if (!l)
			return;
		l->fd = info->connect_fd;
		l->since_ms = now_ms();
		*context = l;
		LOCK_SCOPE(&h->lock);
		DL_APPEND(h->links, l);
		pthread_cond_signal(&h->changed);
	} else if (l) {
		pthread_mutex_lock(&h->lock);
		DL_DELETE(h->links, l);
		pthread_mutex_unlock(&h->lock);
		free(l);
	}
}

static void note_answering(struct httpd *h, struct MHD_Connection *connection, bool answering)
{
	struct link *l = link_of(connection);

	if (!l)
		return;
	LOCK_SCOPE(&h->lock);
	l->answering = answering;
	l->since_ms = now_ms();
	if (h->draining)
		pthread_cond_broadcast(&h->changed);
}

static void request_over(void *arg, struct MHD_Connection *connection, void **context,
			 enum MHD_RequestTerminationCode how)
{
	(void)context;
	(void)how;
	note_answering(arg, connection, false);
}

static void *reap(void *arg)
{
	struct httpd *h = arg;
	struct link *l;
	LOCK_SCOPE(&h->lock);

	while (!h->stopping) {
		int64_t now = now_ms();

		DL_FOREACH (h->links, l) {
			if (now - l->since_ms > (l->answering ? h->reply_ms : h->idle_ms) ||
			    (h->draining && !l->answering))
				shutdown(l->fd, SHUT_RDWR);
		}
		if (h->links)
			cond_wait_until(&h->changed, &h->lock, deadline_in_ms(REAP_MS));
		else
			pthread_cond_wait(&h->changed, &h->lock);
	}
	return NULL;
}

/* --- requests --- */

const char *httpd_method(const struct httpd_request *r)
{
	return r->method;
}

const char *httpd_query(const struct httpd_request *r, const char *name)
{
	return MHD_lookup_connection_value(r->connection, MHD_GET_ARGUMENT_KIND, name);
}

const char *httpd_header(const struct httpd_request *r, const char *name)
{
	return MHD_lookup_connection_value(r->connection, MHD_HEADER_KIND, name);
}

static ssize_t read_stream(void *arg, uint64_t pos, char *buf, size_t max)
{
	const struct httpd_stream *s = arg;
	ssize_t n = s->read(s->arg, pos, (uint8_t *)buf, max);

	return n > 0 ? n : MHD_CONTENT_READER_END_WITH_ERROR;
}

static void free_stream(void *arg)
{
	struct httpd_stream *s = arg;

	s->release(s->arg);
	free(s);
}

static struct MHD_Response *stream_response(const struct httpd_stream *stream)
{
	struct httpd_stream *s = malloc(sizeof(*s));
	struct MHD_Response *response = NULL;

	if (s) {
		*s = *stream;
		response = MHD_create_response_from_callback(s->bytes, STREAM_PIECE_BYTES,
							     read_stream, s, free_stream);
	}
	if (!response) {
		stream->release(stream->arg);
		free(s);
	}
	return response;
}

static struct MHD_Response *memory_response(const struct httpd_reply *reply)
{
	/* The body is not changed, and freed only if it is the server's. */
	void *body = (void *)(uintptr_t)reply->body;
	struct MHD_Response *response = MHD_create_response_from_buffer(
		reply->bytes, body, reply->owned ? MHD_RESPMEM_MUST_FREE : MHD_RESPMEM_MUST_COPY);

	if (!response && reply->owned)
		free(body);
	return response;
}

void httpd_reply(struct httpd_request *r, const struct httpd_reply *reply)
{
	struct MHD_Response *response = reply->stream ? stream_response(reply->stream)
						      : memory_response(reply);

	if (!response)
		return;
	if (reply->type)
		MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, reply->type);
	for (size_t i = 0; i < reply->n_fields; i++)
		MHD_add_response_header(response, reply->fields[i].name, reply->fields[i].value);
	r->result = MHD_queue_response(r->connection, reply->status, response);
	MHD_destroy_response(response);
}

static void reply_error(struct httpd_request *r, unsigned status, const char *text,
			const struct httpd_field *field)
{
	cJSON *tree = cJSON_CreateObject();

	if (tree)
		cJSON_AddStringToObject(tree, "error", text);
	char *json = tree ? cJSON_PrintUnformatted(tree) : NULL;
	struct httpd_reply reply = {
		.status = status,
		.type = HTTPD_JSON,
		.body = json,
		.bytes = json ? strlen(json) : 0,
		.fields = field,
		.n_fields = field != NULL,
	};
	cJSON_Delete(tree);
	httpd_reply(r, &reply);
	cJSON_free(json);
}

void httpd_error(struct httpd_request *r, unsigned status, const char *format, ...)
{
	char text[ERROR_BYTES_MAX];
	va_list ap;

	va_start(ap, format);
	vsnprintf(text, sizeof(text), format, ap);
	va_end(ap);
	reply_error(r, status, text, NULL);
}

void httpd_reply_text(struct httpd_request *r, unsigned status, char *text, const char *type)
{
	if (!text) {
		reply_error(r, MHD_HTTP_INTERNAL_SERVER_ERROR, "out of memory", NULL);
		return;
	}
	httpd_reply(r, &(struct httpd_reply){ .status = status,
					      .type = type,
					      .body = text,
					      .bytes = strlen(text),
					      .owned = true });
}

static bool route_takes(const struct httpd_route *route, const char *method)
{
	if (strcmp(method, "GET") == 0 || strcmp(method, "HEAD") == 0)
		return route->methods & HTTPD_GET;
	return strcmp(method, "DELETE") == 0 && (route->methods & HTTPD_DELETE);
}

static void refuse_method(struct httpd_request *r, const struct httpd_route *route)
{
	static const char *const allow[] = {
		[HTTPD_GET] = "GET, HEAD",
		[HTTPD_DELETE] = "DELETE",
		[HTTPD_GET | HTTPD_DELETE] = "GET, HEAD, DELETE",
	};
	struct httpd_field field = { "Allow", allow[route->methods] };

	reply_error(r, MHD_HTTP_METHOD_NOT_ALLOWED, "the method is not allowed here", &field);
}

/* Called first when the headers have come, then for each piece of a body, then with no piece. */
static enum MHD_Result handle(void *arg, struct MHD_Connection *connection, const char *url,
			      const char *method, const char *version, const char *piece,
			      size_t *piece_bytes, void **context)
{
	static char headers_seen;
	struct httpd *h = arg;
	struct httpd_request r = { .connection = connection, .method = method };

	(void)version;
	(void)piece;
	if (!*context) {
		*context = &headers_seen;
		return MHD_YES;
	}
	if (*piece_bytes) {
		*piece_bytes = 0;
		return MHD_YES;
	}
	note_answering(h, connection, true);
	for (size_t i = 0; i < h->n_routes; i++) {
		if (strcmp(h->routes[i].path, url) != 0)
			continue;
		if (route_takes(&h->routes[i], method))
			h->routes[i].answer(&r, h->arg);
		else
			refuse_method(&r, &h->routes[i]);
		return r.result;
	}
	httpd_error(&r, MHD_HTTP_NOT_FOUND, "there is nothing at %s", url);
	return r.result;
}

/* --- starting and stopping --- */

/* fd is libmicrohttpd's from here on. */
static int start_daemon(struct httpd *h, const struct httpd_config *cfg, int fd)
{
	unsigned flags = MHD_USE_INTERNAL_POLLING_THREAD;
	unsigned connections_max = cfg->connections_max ? cfg->connections_max : HTTPD_CONNECTIONS;

	flags |= cfg->blocking ? MHD_USE_THREAD_PER_CONNECTION | MHD_USE_POLL : MHD_USE_EPOLL;
	h->daemon = MHD_start_daemon(
		flags, cfg->port, NULL, NULL, handle, h, MHD_OPTION_LISTEN_SOCKET, fd,
		MHD_OPTION_CONNECTION_LIMIT, connections_max, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		(size_t)CONNECTION_BYTES_MAX, MHD_OPTION_NOTIFY_CONNECTION, connection_changed, h,
		MHD_OPTION_NOTIFY_COMPLETED, request_over, h, MHD_OPTION_END);
	return h->daemon ? 0 : -ENOMEM;
}

static void stop_reaper(struct httpd *h)
{
	pthread_mutex_lock(&h->lock);
	h->stopping = true;
	pthread_cond_signal(&h->changed);
	pthread_mutex_unlock(&h->lock);
	pthread_join(h->reaper, NULL);
}

static int start_threads(struct httpd *h, const struct httpd_config *cfg, int fd)
{
	sigset_t all, old;

	/* Signals are for the program's own threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int err = -pthread_create(&h->reaper, NULL, reap, h);
	if (!err) {
		err = start_daemon(h, cfg, fd);
		if (err)
			stop_reaper(h);
	} else {
		close(fd);
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return err;
}

static uint16_t port_of(int fd)
{
	union {
		struct sockaddr any;
		struct sockaddr_in v4;
		struct sockaddr_in6 v6;
	} a = { 0 };
	socklen_t bytes = sizeof(a);

	if (getsockname(fd, &a.any, &bytes))
		return 0;
	return ntohs(a.any.sa_family == AF_INET6 ? a.v6.sin6_port : a.v4.sin_port);
}

static int start(const struct httpd_config *cfg, int fd, struct httpd **ret)
{
	struct httpd *h = calloc(1, sizeof(*h));
	int err = h ? -pthread_mutex_init(&h->lock, NULL) : -ENOMEM;

	if (err)
		goto free_server;
	err = cond_init_monotonic(&h->changed);
	if (err)
		goto destroy_lock;
	h->routes = cfg->routes;
	h->n_routes = cfg->n_routes;
	h->arg = cfg->arg;
	h->idle_ms = cfg->idle_ms ? cfg->idle_ms : HTTPD_IDLE_MS;
	h->reply_ms = cfg->reply_ms ? cfg->reply_ms : HTTPD_REPLY_MS;
	h->port = port_of(fd);
	err = start_threads(h, cfg, fd);
	if (err)
		goto destroy_condition;
	*ret = h;
	return 0;

destroy_condition:
	pthread_cond_destroy(&h->changed);
destroy_lock:
	pthread_mutex_destroy(&h->lock);
free_server:
	free(h);
	return err;
}

int httpd_start(const struct httpd_config *cfg, struct httpd **ret, char *message, size_t bytes)
{
	const char *host = cfg->host && *cfg->host ? cfg->host : NULL;
	int fd;
	int err = listen_tcp(host, cfg->port, BACKLOG, &fd);

	if (err) {
		snprintf(message, bytes, "cannot listen on %s, port %u: %s", host ? host : "*",
			 cfg->port, strerror(-err));
		return err;
	}
	err = start(cfg, fd, ret);
	if (err)
		snprintf(message, bytes, "cannot start the HTTP server: %s", strerror(-err));
	return err;
}

uint16_t httpd_port(const struct httpd *h)
{
	return h->port;
}

static bool is_answering(struct httpd *h)
{
	struct link *l;

	DL_FOREACH (h->links, l) {
		if (l->answering)
			return true;
	}
	return false;
}

void httpd_drain(struct httpd *h, struct deadline d)
{
	int fd = MHD_quiesce_daemon(h->daemon);

	if (fd >= 0)
		close(fd);
	LOCK_SCOPE(&h->lock);
	h->draining = true;
	pthread_cond_broadcast(&h->changed);
	while (is_answering(h) && !deadline_passed(d))
		cond_wait_until(&h->changed, &h->lock, d);
}

void httpd_stop(struct httpd *h)
{
	if (!h)
		return;
	MHD_stop_daemon(h->daemon);
	stop_reaper(h);
	pthread_cond_destroy(&h->changed);
	pthread_mutex_destroy(&h->lock);
	free(h);
}
