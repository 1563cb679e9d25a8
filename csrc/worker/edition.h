/* An edition: one version as workers use it, the view and the TLS servers of its listeners.
 *
 * Made on the control thread from an image and its secrets, published to workers by one atomic
 * pointer, released on the control thread when all of them have passed on. Certificates are
 * cached by digest, so that a publish parses only new ones. */
#ifndef EDGE_WORKER_EDITION_H
#define EDGE_WORKER_EDITION_H

#include "base/list.h"
#include "net/tls.h"
#include "snapshot/view.h"

struct edition {
    struct snapshot_view *view;
    struct tls_server *tls[EDGE_LISTENER_SLOTS]; /* 0: plain, or not there */
};

/* Control thread's cache of parsed certificates. */
struct certificate_cache {
    struct list certificates;
};

void certificate_cache_init(struct certificate_cache *cache);
void certificate_cache_release(struct certificate_cache *cache);

/* The view becomes the edition's own, also when this fails. secrets: checked, or 0 bytes. */
int edition_create(struct certificate_cache *cache, struct snapshot_view *view,
                   const uint8_t *secrets, struct edition **out, struct edge_error *err);
/* The same listeners over a patched view. */
int edition_patched(const struct edition *base, struct snapshot_view *view, struct edition **out,
                    struct edge_error *err);
void edition_release(struct edition *edition);

#endif
