/* JSON web tokens for reading: from SeaweedFS's own security.toml, signed here, cached.
 *
 * Keys never leave this module but as HMACs. Thread-safe after token_source_new(). */
#ifndef KELP_TOKEN_H
#define KELP_TOKEN_H

#include <stdbool.h>
#include <stddef.h>

#include "filer/fid.h"

struct token_source;

#define TOKEN_MAX 1024
#define TOKEN_LIFETIME_S 60

/* Reads `[jwt.filer_signing.read] key`, `[jwt.signing.read] key` (and `expires_after_seconds`) from a
 * security.toml; path NULL or a file without those sections: no tokens. The same keys in
 * WEED_JWT_FILER_SIGNING_READ_KEY and WEED_JWT_SIGNING_READ_KEY win over the file. Returns 0, -errno
 * of the file, -EINVAL for a malformed one (*ret_line: where; 0 where no line is to blame). */
int token_source_new(const char *security_toml, unsigned *ret_line, struct token_source **ret);

/* Rereads the file, for SIGHUP. On failure the old keys stay. */
int token_source_reload(struct token_source *t, unsigned *ret_line);
void token_source_free(struct token_source *t);

/* Is there a key? */
bool token_has_filer_key(const struct token_source *t);
bool token_has_volume_key(const struct token_source *t);

/* Token for any read at the filer; "" without a key. Cached for half its life. */
int token_for_filer(struct token_source *t, char buf[TOKEN_MAX]);

/* Token for one needle at a volume server (claim fid = base fid); "" without a key. */
int token_for_fid(struct token_source *t, const struct fid *fid, char buf[TOKEN_MAX]);

/* Token for an agent's connection: signed with the volume read key, claim kelp = "agent"; "" without a
 * key. It is good for any needle, at agents only: volume servers want a fid. */
int token_for_agent(struct token_source *t, char buf[TOKEN_MAX]);

/* Is this a token that the volume read key signed for fid, in time? For agents. 0 or -EACCES; also 0
 * where there is no key. */
int token_check_fid(struct token_source *t, const char *token, size_t len, const struct fid *fid);

/* Likewise for a connection. */
int token_check_agent(struct token_source *t, const char *token, size_t len);

#endif
