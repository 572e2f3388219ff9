/* Any bytes as a token; and, signed here with the right key, any bytes as header and claims, so that
 * what lies behind the signature check is reached. */
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>
#include <string.h>

#include "filer/token.h"

#define KEY "key"
#define HEADER "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9."
#define CLAIMS_BYTES_MAX 600

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static struct token_source *source;
static const struct fid needle = { .volume_id = 3, .key = 1, .cookie = 0x637037d6 };

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
	unsigned line;

	(void)argc;
	(void)argv;
	setenv("WEED_JWT_SIGNING_READ_KEY", KEY, 1);
	if (token_source_new(NULL, &line, &source) != 0)
		abort();
	return 0;
}

static void append_base64url(char *text, const uint8_t *p, size_t len)
{
	text += strlen(text);
	EVP_EncodeBlock((unsigned char *)text, p, (int)len);
	for (; *text; text++) {
		if (*text == '+')
			*text = '-';
		else if (*text == '/')
			*text = '_';
		else if (*text == '=')
			*text = '\0';
	}
}

/* Signs the text behind the header, encoded; or text as it is, which may hold a header too. */
static void check_signed(const uint8_t *data, size_t size, bool encoded)
{
	char token[2 * TOKEN_MAX] = "";
	unsigned char mac[EVP_MAX_MD_SIZE];
	unsigned mac_len;

	if (encoded) {
		memcpy(token, HEADER, sizeof(HEADER));
		append_base64url(token, data, size);
	} else {
		memcpy(token, data, size);
	}
	size_t len = strlen(token);
	HMAC(EVP_sha256(), KEY, sizeof(KEY) - 1, (unsigned char *)token, len, mac, &mac_len);
	token[len] = '.';
	token[len + 1] = '\0';
	append_base64url(token, mac, mac_len);
	token_check_fid(source, token, strlen(token), &needle);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (token_check_fid(source, (const char *)data, size, &needle) == 0)
		abort(); /* it would have forged a signature */
	if (size <= CLAIMS_BYTES_MAX) {
		check_signed(data, size, true);
		check_signed(data, size, false);
	}
	return 0;
}
