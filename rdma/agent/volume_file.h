/* Reading from a volume's files. */
#ifndef KELP_VOLUME_FILE_H
#define KELP_VOLUME_FILE_H

#include <stddef.h>
#include <stdint.h>

/* Reads all n bytes. Returns 0, -EIO where the file ends before, or what pread() said. */
int pread_exact(int fd, void *buf, size_t n, uint64_t offset);

#endif
