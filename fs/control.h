/* The mount's hidden directory: MOUNTPOINT/.kelpfs/ with the files stats, metrics and config. It can be reached by
 * name and is in no listing. A namespace that has a .kelpfs of its own keeps it: then that is shown. */
#ifndef KELP_CONTROL_H
#define KELP_CONTROL_H

struct fuse_lowlevel_ops;
struct mount;

#define CONTROL_NAME ".kelpfs"

/* Has ops, a copy of kelpfs_operations, serve the directory too. */
void control_add(struct fuse_lowlevel_ops *ops);

/* For the end of the session: the kernel does not close what is closed at the very end. */
void control_close_all(struct mount *m);

#endif
