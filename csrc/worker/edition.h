/* An edition: one version as workers use it: the view, the TLS servers of its listeners, its
 * compiled expressions.
 *
 * Made on the control thread from an image and its secrets, published to workers by one atomic
 * pointer, released on the control thread when all of them have passed on. Certificates and
 * expressions are kept from one to the next, so that a publish prepares only new ones. */
#ifndef EDGE_WORKER_EDITION_H
#define EDGE_WORKER_EDITION_H

#include "base/list.h"
#include "match/patterns.h"
#include "net/tls.h"
#include "snapshot/view.h"

struct edition {
    struct snapshot_view *view;
    struct pattern_set *patterns;                /* of view->image.compiled */
    struct tls_server *tls[EDGE_LISTENER_SLOTS]; /* 0: plain, or not there */
};

/* Control thread's cache of parsed certificates and compiled expressions. */
struct certificate_cache {
    struct list certificates;
    struct pattern_set *patterns; /* of the last edition made */
    void (*turn)(void *owner); /* called between two certificates, for a sign of life; may be 0 */
    void *owner;
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
