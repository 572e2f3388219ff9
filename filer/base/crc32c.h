/* CRC-32C (Castagnoli), with which SeaweedFS guards the stored bytes of a needle.
 *
 * Stateless. */
#ifndef KELP_CRC32C_H
#define KELP_CRC32C_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Of n more bytes, continuing from crc; the first time from 0. */
uint32_t crc32c(uint32_t crc, const void *p, size_t n);

/* The same; what crc32c() does on a processor without instructions for it. */
uint32_t crc32c_by_table(uint32_t crc, const void *p, size_t n);

/* Servers before 3.09 stored, and report, a masked form of it: either will do. */
bool crc32c_matches(uint32_t stored, uint32_t crc);

#endif
