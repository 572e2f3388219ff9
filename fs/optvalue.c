#include "fs/optvalue.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

int option_parse_number(const char *text, double *ret)
{
	char *end;

	if (!isdigit((unsigned char)text[0]) && text[0] != '.')
		return -EINVAL;
	errno = 0;
	double v = strtod(text, &end);
	if (errno || *end || !isfinite(v))
		return -EINVAL;
	*ret = v;
	return 0;
}

int option_parse_bytes(const char *text, double *ret)
{
	static const char suffixes[] = "KMGT";
	size_t len = strlen(text);
	double unit = 1;
	char digits[64];

	if (len == 0 || len >= sizeof(digits))
		return -EINVAL;
	memcpy(digits, text, len + 1);
	const char *s = strchr(suffixes, toupper((unsigned char)digits[len - 1]));
	if (s) {
		unit = ldexp(1, 10 * (int)(s - suffixes + 1));
		digits[len - 1] = '\0';
	}
	double v;
	int err = option_parse_number(digits, &v);
	if (err)
		return err;
	*ret = v * unit;
	return 0;
}

void option_print_roff(FILE *out, const char *text)
{
	for (; *text; text++) {
		if (*text == '-' || *text == '\\')
			fputc('\\', out);
		fputc(*text, out);
	}
}
