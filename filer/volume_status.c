#include "filer/volume_status.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "filer/json.h"

/* It lists all volumes, some hundred bytes for each. */
#define STATUS_BYTES_MAX ((size_t)64 << 20)

static int copy_dir(const cJSON *disk, char **ret)
{
	const struct json_field fields[] = { { "dir", JSON_TEXT, true, 0 } };
	char *text = NULL;
	int err = json_read(disk, fields, ARRAY_LEN(fields), &text);

	if (err || !text[0])
		return -EPROTO;
	*ret = strdup(text);
	return *ret ? 0 : -ENOMEM;
}

static int copy_dirs(const cJSON *status, char **ret_dirs, size_t max, size_t *ret_n)
{
	const cJSON *disks = cJSON_GetObjectItemCaseSensitive(status, "DiskStatuses");
	const cJSON *disk;
	size_t n = 0;
	int err = cJSON_GetArraySize(disks) > 0 ? 0 : -EPROTO;

	cJSON_ArrayForEach(disk, disks)
	{
		if (!err && n == max)
			err = -E2BIG;
		if (!err)
			err = copy_dir(disk, &ret_dirs[n]);
		n += err == 0;
	}
	if (err) {
		while (n > 0)
			free(ret_dirs[--n]);
		return err;
	}
	*ret_n = n;
	return 0;
}

int volume_status_dirs(struct http_pool *http, const struct endpoint *server, struct deadline d,
		       char **ret_dirs, size_t max, size_t *ret_n)
{
	char base[ENDPOINT_STR_MAX], url[ENDPOINT_STR_MAX + 16];
	struct http_body body = { .max_bytes = STATUS_BYTES_MAX };
	struct http_request r = { .url = url,
				  .accept = "application/json",
				  .on_body = http_body_append,
				  .arg = &body,
				  .deadline = d };
	struct http_head head;
	struct json status;

	endpoint_url(server, base);
	snprintf(url, sizeof(url), "%s/status", base);
	int err = http_perform(http, &r, &head);
	if (!err && head.status != 200)
		err = -EPROTO;
	if (!err)
		err = json_parse((const char *)body.data, body.len, &status);
	free(body.data);
	if (err)
		return err;
	err = copy_dirs(status.root, ret_dirs, max, ret_n);
	json_free(&status);
	return err;
}

bool volume_status_answers(struct http_pool *http, const char *url, struct deadline d)
{
	char status_url[ENDPOINT_STR_MAX + sizeof("/status")];
	struct http_request r = { .url = status_url, .deadline = d };
	struct http_head head;

	snprintf(status_url, sizeof(status_url), "%s/status", url);
	return http_perform(http, &r, &head) == 0;
}
