#include <errno.h>
#include <string.h>

#include "filer.pb-c.h"
#include "filer/filer_client.h"
#include "filer/grpc.h"

#define SERVICE "/filer_pb.SeaweedFiler/"
/* Of one call. A port where something else listens may well say nothing. */
#define CALL_MAX_MS 3000
#define MASTER_PORT 9333

/* A request and where the answer goes. */
struct call {
	const char *method;
	const ProtobufCMessage *request;
	int (*on_message)(void *arg, const uint8_t *message, size_t len);
	void *arg;
	struct deadline deadline;
	struct http_cancel *cancel; /* NULL: none */
};

static int perform(struct filer *f, const struct filer_server *s, const struct call *c)
{
	CLEANUP_FREE uint8_t *packed = NULL;
	size_t len = protobuf_c_message_get_packed_size(c->request);
	struct grpc_call call = {
		.base_url = s->grpc_url,
		.method = c->method,
		.request_len = len,
		.on_message = c->on_message,
		.arg = c->arg,
		.deadline = c->deadline,
		.cancel = c->cancel,
	};

	if (s->addr.grpc_port == 0)
		return -ENXIO;
	packed = malloc(len + 1);
	if (!packed)
		return -ENOMEM;
	protobuf_c_message_pack(c->request, packed);
	call.request = packed;
	return grpc_perform(f->http, &call);
}

static ProtobufCBinaryData bytes_of(const char *s, size_t len)
{
	return (ProtobufCBinaryData){ .data = (uint8_t *)s, .len = len };
}

/* What a failed call means where it stands in for an HTTP answer that could not be used. */
static int errno_of_fallback(int err)
{
	switch (err) {
	case -ENXIO:
	case -EOPNOTSUPP:
	case -ECONNREFUSED:
	case -ECONNRESET:
	case -EHOSTUNREACH:
	case -ETIMEDOUT:
		return -EPROTO;
	default:
		return err;
	}
}

static int on_lookup(void *arg, const uint8_t *message, size_t len)
{
	struct entry **ret = arg;
	FilerPb__LookupDirectoryEntryResponse *r =
		filer_pb__lookup_directory_entry_response__unpack(NULL, len, message);
	int err = -EPROTO;

	if (r && !*ret && r->entry.len > 0)
		err = entry_from_pb(r->entry.data, r->entry.len, ret, NULL);
	filer_pb__lookup_directory_entry_response__free_unpacked(r, NULL);
	return err;
}

int filer_grpc_lookup(struct filer *f, const struct filer_server *s, const char *path,
		      struct deadline d, struct entry **ret)
{
	const char *slash = strrchr(path, '/');
	FilerPb__LookupDirectoryEntryRequest request =
		FILER_PB__LOOKUP_DIRECTORY_ENTRY_REQUEST__INIT;
	struct entry *e = NULL;
	int err;

	if (!slash)
		return -EINVAL;
	request.directory = slash == path ? bytes_of("/", 1)
					  : bytes_of(path, (size_t)(slash - path));
	request.name = bytes_of(slash + 1, strlen(slash + 1));
	err = perform(f, s,
		      &(struct call){ .method = SERVICE "LookupDirectoryEntry",
				      .request = &request.base,
				      .on_message = on_lookup,
				      .arg = &e,
				      .deadline = deadline_sooner(d, CALL_MAX_MS) });
	if (!err && !e)
		err = -EPROTO;
	if (err) {
		entry_put(e);
		return errno_of_fallback(err);
	}
	*ret = e;
	return 0;
}

struct listing {
	int (*on_entry)(void *arg, const uint8_t *pb, size_t len);
	void *arg;
};

static int on_list(void *arg, const uint8_t *message, size_t len)
{
	const struct listing *l = arg;
	FilerPb__ListEntriesResponse *r = filer_pb__list_entries_response__unpack(NULL, len,
										  message);
	int err = r ? 0 : -EPROTO;

	/* A message without an entry only carries the snapshot's time. */
	if (r && r->entry.len > 0)
		err = l->on_entry(l->arg, r->entry.data, r->entry.len);
	filer_pb__list_entries_response__free_unpacked(r, NULL);
	return err;
}

int filer_grpc_list(struct filer *f, const struct filer_server *s, const char *dir,
		    const char *after, unsigned limit, struct deadline d,
		    int (*on_entry)(void *arg, const uint8_t *pb, size_t len), void *arg)
{
	FilerPb__ListEntriesRequest request = FILER_PB__LIST_ENTRIES_REQUEST__INIT;
	struct listing l = { .on_entry = on_entry, .arg = arg };

	request.directory = bytes_of(dir, strlen(dir));
	request.start_from_file_name = bytes_of(after, strlen(after));
	request.limit = limit;
	return errno_of_fallback(perform(f, s,
					 &(struct call){ .method = SERVICE "ListEntries",
							 .request = &request.base,
							 .on_message = on_list,
							 .arg = &l,
							 .deadline = d }));
}

/* Asks each filer once: cluster facts are worth no long wait. */
static int ask_any(struct filer *f, struct call *c, struct deadline d)
{
	size_t first = filer_current(f);

	for (size_t i = 0; i < f->n_servers; i++) {
		int err;

		c->deadline = deadline_sooner(d, CALL_MAX_MS);
		err = perform(f, &f->servers[(first + i) % f->n_servers], c);
		if (!err || err == -ENOMEM || err == -EACCES || err == -ECANCELED)
			return err;
	}
	return -ENXIO;
}

struct masters {
	struct endpoint *list;
	size_t max;
	size_t n;
};

static int on_configuration(void *arg, const uint8_t *message, size_t len)
{
	struct masters *m = arg;
	FilerPb__GetFilerConfigurationResponse *r =
		filer_pb__get_filer_configuration_response__unpack(NULL, len, message);

	if (!r)
		return -EPROTO;
	m->n = 0;
	for (size_t i = 0; i < r->n_masters && m->n < m->max; i++) {
		const char *text = r->masters[i];

		if (endpoint_parse(text, strlen(text), MASTER_PORT, &m->list[m->n]) == 0)
			m->n++;
	}
	filer_pb__get_filer_configuration_response__free_unpacked(r, NULL);
	return 0;
}

int filer_masters(struct filer *f, struct deadline d, struct http_cancel *cancel,
		  struct endpoint *ret, size_t max, size_t *ret_n)
{
	FilerPb__GetFilerConfigurationRequest request =
		FILER_PB__GET_FILER_CONFIGURATION_REQUEST__INIT;
	struct masters m = { .list = ret, .max = max };
	struct call c = { .method = SERVICE "GetFilerConfiguration",
			  .request = &request.base,
			  .on_message = on_configuration,
			  .arg = &m,
			  .cancel = cancel };
	int err = ask_any(f, &c, d);

	if (!err && m.n == 0)
		err = -ENXIO;
	if (!err)
		*ret_n = m.n;
	return err;
}

static int on_statistics(void *arg, const uint8_t *message, size_t len)
{
	struct filer_capacity *c = arg;
	FilerPb__StatisticsResponse *r = filer_pb__statistics_response__unpack(NULL, len, message);

	if (!r)
		return -EPROTO;
	*c = (struct filer_capacity){ .total_bytes = r->total_size,
				      .used_bytes = r->used_size,
				      .files = r->file_count };
	filer_pb__statistics_response__free_unpacked(r, NULL);
	return 0;
}

int filer_statistics(struct filer *f, struct deadline d, struct filer_capacity *ret)
{
	FilerPb__StatisticsRequest request = FILER_PB__STATISTICS_REQUEST__INIT;
	struct filer_capacity capacity = { 0 };
	struct call c = { .method = SERVICE "Statistics",
			  .request = &request.base,
			  .on_message = on_statistics,
			  .arg = &capacity };
	int err = ask_any(f, &c, d);

	if (!err)
		*ret = capacity;
	return err;
}
