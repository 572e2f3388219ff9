#include "filer/topology.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "filer/http.h"
#include "filer/json.h"

/* It lists every volume server. */
#define STATUS_MAX_BYTES (16 * MIB)
#define STATUS_PATH "/dir/status"
#define HTTP_OK 200

static int id_from_json(const struct http_body *body, char *ret, size_t bytes)
{
	struct json json;
	int err = json_parse((const char *)body->data, body->len, &json);

	if (err)
		return err;
	const char *id = cJSON_GetStringValue(
		cJSON_GetObjectItemCaseSensitive(json.root, "TopologyId"));
	if (!id || !id[0])
		err = -ENOENT;
	else if (strlen(id) >= bytes)
		err = -EMSGSIZE;
	else
		memcpy(ret, id, strlen(id) + 1);
	json_free(&json);
	return err;
}

static int ask(struct http_pool *http, const struct endpoint *master, struct deadline d, char *ret,
	       size_t bytes)
{
	char base[ENDPOINT_STR_MAX], url[ENDPOINT_STR_MAX + sizeof(STATUS_PATH)];
	struct http_body body = { .max_bytes = STATUS_MAX_BYTES };
	struct http_request r = {
		.url = url, .on_body = http_body_append, .arg = &body, .deadline = d
	};
	struct http_head head;

	endpoint_url(master, base);
	snprintf(url, sizeof(url), "%s" STATUS_PATH, base);
	int err = http_perform(http, &r, &head);
	if (!err)
		err = head.status == HTTP_OK && body.data ? id_from_json(&body, ret, bytes)
							  : -EPROTO;
	free(body.data);
	return err;
}

int topology_id(struct http_pool *http, const struct endpoint *masters, size_t n, struct deadline d,
		char *ret, size_t bytes)
{
	int err = -ENOENT;

	for (size_t i = 0; i < n; i++) {
		/* each its part of the time: one that does not answer leaves the others theirs */
		unsigned share_ms = (unsigned)(deadline_left_ms(d) / (int64_t)(n - i));

		err = ask(http, &masters[i], deadline_in_ms(share_ms), ret, bytes);
		if (!err)
			break;
	}
	return err;
}
