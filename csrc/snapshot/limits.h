/* How much of everything one image may hold; over it the check answers LIMIT.
 *
 * Read by build.c and check.c. Slot limits are part of edge.h, because shared memory depends on
 * them. */
#ifndef EDGE_SNAPSHOT_LIMITS_H
#define EDGE_SNAPSHOT_LIMITS_H

#include "include/edge.h"

#define LIMIT_DOMAINS 64
#define LIMIT_BUCKETS (1u << 20)
#define LIMIT_NAME_BYTES 254 /* a DNS name, or its wildcard suffix */
#define LIMIT_LABEL_BYTES 1024
#define LIMIT_PATH_BYTES 4096
#define LIMIT_FIELD_NAME_BYTES 256
#define LIMIT_FIELD_VALUE_BYTES 4096
#define LIMIT_FIELD_MATCHES 64
#define LIMIT_PATTERNS (1u << 16)
#define LIMIT_PATTERN_BYTES 1024
#define LIMIT_FILTERS 16
#define LIMIT_REFERENCES 1024
#define LIMIT_WEIGHT 1000000
#define LIMIT_HEAD_BYTES_MIN 256
#define LIMIT_HEAD_BYTES_MAX (1u << 20)
#define LIMIT_MILLISECONDS 86400000u
#define LIMIT_DELAY_MS 3600000u

static inline uint32_t limit_of(uint32_t section)
{
    switch (section) {
    case EDGE_SECTION_LISTENER:
        return EDGE_LISTENER_SLOTS;
    case EDGE_SECTION_SNI_TABLE:
    case EDGE_SECTION_HOST_TABLE:
        return LIMIT_DOMAINS;
    case EDGE_SECTION_ROUTE:
        return EDGE_ROUTE_SLOTS;
    case EDGE_SECTION_UPSTREAM:
        return EDGE_UPSTREAM_SLOTS;
    case EDGE_SECTION_PATTERN:
        return LIMIT_PATTERNS;
    case EDGE_SECTION_TEMPLATE: /* not in this version */
        return 0;
    case EDGE_SECTION_TEXT:
        return EDGE_IMAGE_BYTES_MAX;
    default:
        return 1u << 22;
    }
}

#endif
