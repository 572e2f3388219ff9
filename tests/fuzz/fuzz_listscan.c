/* Any text, in pieces whose lengths the first byte chooses: what comes out does not depend on them. */
#include <stdlib.h>
#include <string.h>

#include "filer/base/base.h"
#include "filer/listscan.h"

#define ELEMENT_MAX_BYTES 64
#define ENVELOPE_MAX_BYTES 256

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct outcome {
	uint64_t hash; /* of all elements and the envelope */
	int err;
};

static int on_element(void *arg, const char *json, size_t len)
{
	struct outcome *o = arg;

	if (len == 0 || len > ELEMENT_MAX_BYTES)
		abort();
	o->hash = hash_bytes(o->hash, json, len);
	o->hash = hash_bytes(o->hash, "|", 1);
	return 0;
}

static struct outcome scan(const char *text, size_t len, size_t piece)
{
	struct outcome o = { .hash = HASH_SEED };
	const struct listscan_config config = {
		.key = "Entries",
		.element_max_bytes = ELEMENT_MAX_BYTES,
		.envelope_max_bytes = ENVELOPE_MAX_BYTES,
		.on_element = on_element,
		.arg = &o,
	};
	const char *envelope;
	struct listscan s;
	size_t n;

	listscan_init(&s, &config);
	for (size_t at = 0; at < len && !o.err; at += piece) {
		size_t now = min_u64(piece, len - at);
		char *copy = malloc(now);

		if (!copy)
			abort();
		memcpy(copy, text + at, now);
		o.err = listscan_push(&s, copy, now);
		free(copy);
	}
	if (!o.err)
		o.err = listscan_finish(&s, &envelope, &n);
	if (!o.err) {
		if (n > ENVELOPE_MAX_BYTES)
			abort();
		o.hash = hash_bytes(o.hash, envelope, n);
	}
	listscan_free(&s);
	return o;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data + 1;
	struct outcome whole, pieces;

	if (size < 2)
		return 0;
	whole = scan(text, size - 1, size);
	pieces = scan(text, size - 1, data[0] % 32 + 1);
	/* Of two faults, another may be met first; and elements before it may differ. */
	if (!whole.err != !pieces.err || (!whole.err && whole.hash != pieces.hash))
		abort();
	return 0;
}
