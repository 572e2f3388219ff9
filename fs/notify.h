/* Tells a service manager how it goes (the protocol of sd_notify(3)). */
#ifndef KELP_NOTIFY_H
#define KELP_NOTIFY_H

/* state: lines such as "READY=1". Does nothing where NOTIFY_SOCKET is not set. */
void notify_manager(const char *state);

/* Says that settings are being read again; to be followed by "READY=1". */
void notify_reloading(void);

#endif
