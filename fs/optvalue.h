/* What the option tables of the programs have in common: values as text. */
#ifndef KELP_OPTVALUE_H
#define KELP_OPTVALUE_H

#include <stdio.h>

/* A decimal number without sign. Returns 0 or -EINVAL. */
int option_parse_number(const char *text, double *ret);

/* Likewise, with one of the suffixes K, M, G, T. */
int option_parse_bytes(const char *text, double *ret);

/* For man pages: a minus must not become a hyphen, and a leading dot would be a request. */
void option_print_roff(FILE *out, const char *text);

#endif
