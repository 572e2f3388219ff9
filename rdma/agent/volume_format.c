#include "rdma/agent/volume_format.h"

#include <errno.h>

#include "filer/json.h"
#include "rdma/agent/store_index.h"

#define VERSION_MAX 3
#define RECORD_HEADER_BYTES 16
#define CHECKSUM_BYTES 4
#define APPEND_TIME_BYTES 8 /* since version 3 */

int volume_stem_parse(const char *stem, size_t len, uint32_t *ret_id)
{
	const char *cut = memrchr(stem, '_', len);
	/* What begins with the underscore has no collection, and is no volume. */
	size_t at = cut && cut > stem ? (size_t)(cut - stem) + 1 : 0;
	uint64_t id = 0;

	/* Servers write no leading zeros, and look for no files that have some. */
	if (at == len || (stem[at] == '0' && len - at > 1))
		return -EINVAL;
	for (; at < len; at++) {
		if (stem[at] < '0' || stem[at] > '9')
			return -EINVAL;
		id = id * 10 + (uint64_t)(stem[at] - '0');
		if (id > UINT32_MAX)
			return -EINVAL;
	}
	*ret_id = (uint32_t)id;
	return 0;
}

int superblock_parse(const uint8_t bytes[SUPERBLOCK_BYTES], struct superblock *ret)
{
	if (bytes[0] < 1 || bytes[0] > VERSION_MAX)
		return -EIO;
	ret->version = bytes[0];
	ret->revision = be16_at(bytes + 4);
	ret->bytes = SUPERBLOCK_BYTES + (uint32_t)be16_at(bytes + 6);
	return 0;
}

void idx_entry_decode(const uint8_t *p, unsigned entry_bytes, struct idx_entry *ret)
{
	uint64_t units = be32_at(p + 8);

	/* The fifth byte is the highest, behind the others. */
	if (entry_bytes == IDX_ENTRY_BYTES_5)
		units |= (uint64_t)p[12] << 32;
	ret->key = be64_at(p);
	ret->offset = units * INDEX_UNIT_BYTES;
	ret->size = be32_at(p + entry_bytes - sizeof(uint32_t));
	ret->deleted = units == 0 || ret->size > INT32_MAX;
}

int vif_parse(const char *text, size_t len, struct vif *ret)
{
	uint32_t offset_bytes = 0;
	const struct json_field fields[] = {
		{ "bytesOffset", JSON_U32, false, 0 },
	};
	struct json json;

	int err = json_parse(text, len, &json);
	if (err)
		return err;
	err = json_read(json.root, fields, 1, &offset_bytes);
	const cJSON *files = cJSON_GetObjectItemCaseSensitive(json.root, "files");
	bool tiered = files && !cJSON_IsNull(files);
	if (cJSON_IsArray(files))
		tiered = cJSON_GetArraySize(files) > 0;
	json_free(&json);
	if (err)
		return err;
	if (offset_bytes != 0 && offset_bytes != 4 && offset_bytes != 5)
		return -EPROTO;
	ret->entry_bytes = offset_bytes ? IDX_ENTRY_BYTES_4 - 4 + offset_bytes : 0;
	ret->tiered = tiered;
	return 0;
}

uint64_t record_bytes(uint8_t version, uint32_t size)
{
	uint64_t n = (uint64_t)RECORD_HEADER_BYTES + size + CHECKSUM_BYTES;

	if (version >= 3)
		n += APPEND_TIME_BYTES;
	/* Never without padding: eight bytes where none were needed. */
	return n + INDEX_UNIT_BYTES - n % INDEX_UNIT_BYTES;
}
