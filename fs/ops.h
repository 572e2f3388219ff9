/* The FUSE operations. userdata of the session is a struct mount. */
#ifndef KELP_OPS_H
#define KELP_OPS_H

struct fuse_lowlevel_ops;

extern const struct fuse_lowlevel_ops kelpfs_operations;

#endif
