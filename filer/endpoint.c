#include "filer/endpoint.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

static bool skip_prefix(const char **s, size_t *len, const char *prefix)
{
	size_t n = strlen(prefix);

	if (*len < n || strncasecmp(*s, prefix, n) != 0)
		return false;
	*s += n;
	*len -= n;
	return true;
}

static bool parse_port(const char *s, size_t len, uint16_t *ret)
{
	unsigned value = 0;

	if (len == 0 || len > 5)
		return false;
	for (size_t i = 0; i < len; i++) {
		if (s[i] < '0' || s[i] > '9')
			return false;
		value = value * 10 + (unsigned)(s[i] - '0');
	}
	if (value == 0 || value > UINT16_MAX)
		return false;
	*ret = (uint16_t)value;
	return true;
}

/* "port" or "port.grpcport". */
static bool parse_ports(const char *s, size_t len, struct endpoint *e)
{
	const char *dot = memchr(s, '.', len);

	if (!dot)
		return parse_port(s, len, &e->port);
	return parse_port(s, (size_t)(dot - s), &e->port) &&
	       parse_port(dot + 1, len - (size_t)(dot + 1 - s), &e->grpc_port);
}

/* What may stand in a DNS name or an IPv4 address; '_' is in use in container networks. */
static bool is_host_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
	       c == '-' || c == '.' || c == '_';
}

static bool parse_name(const char *s, size_t len, char host[ENDPOINT_HOST_MAX])
{
	if (len == 0 || len >= ENDPOINT_HOST_MAX)
		return false;
	for (size_t i = 0; i < len; i++)
		if (!is_host_char(s[i]))
			return false;
	memcpy(host, s, len);
	host[len] = '\0';
	return true;
}

static bool parse_ipv6(const char *s, size_t len, char host[ENDPOINT_HOST_MAX])
{
	struct in6_addr addr;

	/* An embedded NUL would make inet_pton see less than there is. */
	if (len >= INET6_ADDRSTRLEN || memchr(s, '\0', len))
		return false;
	memcpy(host, s, len);
	host[len] = '\0';
	return inet_pton(AF_INET6, host, &addr) == 1;
}

/* Splits off the host; *rest is what follows it: nothing, or ":ports". */
static bool parse_host(const char *s, size_t len, struct endpoint *e, const char **rest)
{
	const char *end;

	if (len > 0 && s[0] == '[') {
		end = memchr(s, ']', len);
		if (!end)
			return false;
		*rest = end + 1;
		return parse_ipv6(s + 1, (size_t)(end - s - 1), e->host);
	}
	end = memchr(s, ':', len);
	*rest = end ? end : s + len;
	return parse_name(s, (size_t)(*rest - s), e->host);
}

int endpoint_parse(const char *s, size_t len, uint16_t default_port, struct endpoint *ret)
{
	struct endpoint e = { .port = default_port };
	const char *end = s + len;
	const char *rest;

	if (skip_prefix(&s, &len, "https://"))
		e.https = true;
	else
		skip_prefix(&s, &len, "http://");
	if (!parse_host(s, len, &e, &rest))
		return -EINVAL;
	if (rest < end && (*rest != ':' || !parse_ports(rest + 1, (size_t)(end - rest - 1), &e)))
		return -EINVAL;
	if (e.port == 0)
		return -EINVAL;
	if (e.grpc_port == 0 && e.port <= UINT16_MAX - GRPC_PORT_DELTA)
		e.grpc_port = (uint16_t)(e.port + GRPC_PORT_DELTA);
	*ret = e;
	return 0;
}

static size_t format_url(const char *scheme, const char *host, uint16_t port,
			 char buf[ENDPOINT_STR_MAX])
{
	bool ipv6 = strchr(host, ':') != NULL;

	return (size_t)snprintf(buf, ENDPOINT_STR_MAX, "%s://%s%s%s:%u", scheme, ipv6 ? "[" : "",
				host, ipv6 ? "]" : "", port);
}

size_t endpoint_url(const struct endpoint *e, char buf[ENDPOINT_STR_MAX])
{
	return format_url(e->https ? "https" : "http", e->host, e->port, buf);
}

/* Never https: SeaweedFS secures gRPC apart from HTTP, by settings of its own. */
size_t endpoint_grpc_url(const struct endpoint *e, char buf[ENDPOINT_STR_MAX])
{
	return format_url("http", e->host, e->grpc_port, buf);
}
