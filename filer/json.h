/* JSON from the network, with cJSON underneath: integers keep all of their 64 bits, and every value is
 * checked for its type before it is used.
 *
 * cJSON holds numbers as doubles. So integers that a double may not hold are turned into strings with a
 * mark before cJSON sees the text; only the getters here know the mark. Stateless. */
#ifndef KELP_JSON_H
#define KELP_JSON_H

#include <stdbool.h>
#include <stddef.h>

#include <cjson/cJSON.h>

/* Values of one text, names of members not counted. Each takes some 100 bytes of memory. */
#define JSON_VALUES_MAX (1u << 18)

/* A parsed text, in one piece of memory: of a listing's entries a tree of forty nodes is made each. Its nodes must
 * never be given to cJSON_Delete(). */
struct json {
	cJSON *root;
	void *memory;
};

/* Parses exactly len bytes; nothing but white space may follow the value. Text with the escape \u0000
 * is refused: a C string would end there. Returns 0 (to be freed with json_free()), -ENOMEM, or -EPROTO for
 * anything malformed, too many values, or nesting beyond cJSON's limit of 1000. */
int json_parse(const char *text, size_t len, struct json *ret);

/* Takes one of zeros. */
void json_free(struct json *j);

/* How a member is read, and what its target is. */
enum json_type {
	JSON_I64, /* int64_t: an integer in that range */
	JSON_U64, /* uint64_t: likewise */
	JSON_U32, /* uint32_t: likewise */
	JSON_BOOL, /* bool */
	JSON_TEXT, /* char *: NUL-terminated, in the tree's memory, which may be written to */
	JSON_OBJECT, /* const cJSON * */
	JSON_ARRAY, /* likewise */
};

struct json_field {
	const char *key;
	enum json_type type;
	bool required;
	size_t offset; /* of the target in the structure */
};

#define JSON_FIELDS_MAX 32

/* Reads the members that the table names into the structure out; other members are skipped, and what is
 * absent or null leaves its target as it was. Of equal names the last one counts. Members that come in
 * the order of the table are found fastest. Returns 0, or -EPROTO: no object, a value of another type
 * or out of range, a required one missing. On failure out may be half filled. */
int json_read(const cJSON *object, const struct json_field *fields, size_t n, void *out);

/* Decodes standard base64 with padding, in place. Returns 0 or -EPROTO; text is then as it was. */
int json_base64(char *text, size_t *ret_len);

#endif
