/* The client's side of TLS as SeaweedFS's security.toml has it: [https.client] ca, cert, key,
 * insecure_skip_verify; used where enabled = true. */
#ifndef KELP_TLS_H
#define KELP_TLS_H

#include <stdbool.h>

struct tls_settings {
	char *ca; /* malloced paths of PEM files, or NULL */
	char *cert;
	char *key;
	bool insecure;
};

/* security_toml NULL: nothing is set. Returns 0, -errno of the file, -EINVAL for a malformed one
 * (*ret_line: where). */
int tls_settings_read(const char *security_toml, unsigned *ret_line, struct tls_settings *ret);
void tls_settings_free(struct tls_settings *t);

#endif
