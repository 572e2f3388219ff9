#include "filer/base/listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

static int listen_one(const struct addrinfo *a, int backlog, int *ret)
{
	int on = 1, off = 0, err;
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (a->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &off, sizeof(off));
	if (bind(fd, a->ai_addr, a->ai_addrlen) || listen(fd, backlog)) {
		err = -errno;
		close(fd);
		return err;
	}
	*ret = fd;
	return 0;
}

int listen_tcp(const char *host, uint16_t port, int backlog, int *ret)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE };
	struct addrinfo *list;
	char text[8];
	int err = -EADDRNOTAVAIL;

	snprintf(text, sizeof(text), "%u", (unsigned)port);
	if (getaddrinfo(host, text, &hints, &list))
		return -EADDRNOTAVAIL;
	for (int pass = 0; pass < 2 && err; pass++)
		for (const struct addrinfo *a = list; a && err; a = a->ai_next)
			if ((a->ai_family == AF_INET6) == (pass == 0))
				err = listen_one(a, backlog, ret);
	freeaddrinfo(list);
	return err;
}
