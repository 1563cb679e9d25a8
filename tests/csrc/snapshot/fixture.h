/* Fragments and images for tests, written as calls: fixture_route(&f, 3, "a.example", ...).
 *
 * Used by tests of snapshot and match and by the image fuzzer; every failure to build aborts. */
#ifndef TESTS_SNAPSHOT_FIXTURE_H
#define TESTS_SNAPSHOT_FIXTURE_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "include/edge.h"

struct fixture {
    _Alignas(8) uint8_t bytes[1 << 16];
    uint32_t used;
    uint32_t start; /* of the fragment being written */
};

static inline void *fixture_begin(struct fixture *f, uint32_t kind, size_t bytes)
{
    struct edge_fragment *head = (void *)(f->bytes + f->used);

    f->start = f->used;
    memset(head, 0, bytes);
    head->kind = kind;
    f->used += (uint32_t)bytes;
    return head;
}

static inline uint32_t fixture_array(struct fixture *f, const void *entries, size_t bytes)
{
    uint32_t offset;

    while (f->used % 8 != 0)
        f->bytes[f->used++] = 0;
    offset = f->used - f->start;
    memcpy(f->bytes + f->used, entries, bytes);
    f->used += (uint32_t)bytes;
    return offset;
}

static inline struct edge_text fixture_text(struct fixture *f, const char *text)
{
    struct edge_text result = {f->used - f->start, (uint32_t)strlen(text)};

    memcpy(f->bytes + f->used, text, result.length);
    f->used += result.length;
    return result;
}

static inline void fixture_end(struct fixture *f)
{
    while (f->used % 8 != 0)
        f->bytes[f->used++] = 0;
    ((struct edge_fragment *)(void *)(f->bytes + f->start))->bytes = f->used - f->start;
    if (f->used > sizeof(f->bytes) / 2)
        abort();
}

static inline void fixture_listener(struct fixture *f, uint32_t slot, uint8_t transport)
{
    struct edge_fragment_listener *it =
        fixture_begin(f, EDGE_FRAGMENT_LISTENER, sizeof(struct edge_fragment_listener));
    struct edge_image_prefix trusted = {.address = {10}, .bits = 104};

    it->listener = (struct edge_image_listener){
        .slot = slot,
        .generation = 1,
        .port = (uint16_t)(8000 + slot),
        .transport = transport,
        .trusted_count = 1,
        .head_bytes_max = 32768,
        .target_bytes_max = 8192,
        .idle_ms = 75000,
        .head_ms = 60000,
    };
    it->trusted_offset = fixture_array(f, &trusted, sizeof(trusted));
    fixture_end(f);
}

/* host: "" for any, ".x" for a wildcard. The upstream is slot 0, with one delay filter. */
static inline void fixture_route(struct fixture *f, uint32_t slot, uint64_t precedence,
                                 const char *host, uint32_t type, const char *path)
{
    struct edge_fragment_route *it =
        fixture_begin(f, EDGE_FRAGMENT_ROUTE, sizeof(struct edge_fragment_route));
    struct edge_image_reference reference = {.upstream_slot = 0, .weight = 1};
    struct edge_image_filter filter = {.kind = EDGE_FILTER_DELAY, .argument = 5};

    it->wildcard = host[0] == '.';
    it->route.slot = slot;
    it->route.generation = 1;
    it->route.precedence = precedence;
    it->route.path_type = type;
    it->route.filter_count = 1;
    it->route.reference_count = 1;
    it->filters_offset = fixture_array(f, &filter, sizeof(filter));
    it->references_offset = fixture_array(f, &reference, sizeof(reference));
    it->host = fixture_text(f, host);
    it->route.path = fixture_text(f, path);
    it->route.path_written = it->route.path;
    it->route.kind = fixture_text(f, "Ingress");
    it->route.object_namespace = fixture_text(f, "default");
    it->route.object_name = fixture_text(f, "web");
    it->route.service = fixture_text(f, "web:80");
    fixture_end(f);
}

/* Conditions: one of each kind. */
static inline void fixture_conditional(struct fixture *f, uint32_t slot, uint64_t precedence,
                                       const char *host, uint32_t type, const char *path)
{
    struct edge_fragment_route *it =
        fixture_begin(f, EDGE_FRAGMENT_ROUTE, sizeof(struct edge_fragment_route));
    struct edge_image_reference reference = {.upstream_slot = 7, .weight = 1};
    struct edge_image_field_match fields[4] = {
        {.target = EDGE_FIELD_METHOD, .type = EDGE_FIELD_EXACT},
        {.target = EDGE_FIELD_HEADER, .type = EDGE_FIELD_EXACT},
        {.target = EDGE_FIELD_HEADER, .type = EDGE_FIELD_REGEX},
        {.target = EDGE_FIELD_QUERY, .type = EDGE_FIELD_EXACT},
    };

    it->wildcard = host[0] == '.' ? EDGE_WILDCARD_SUFFIX : EDGE_WILDCARD_NONE;
    it->fall_through = 1;
    it->route.slot = slot;
    it->route.generation = 1;
    it->route.precedence = precedence;
    it->route.path_type = type;
    it->route.reference_count = 1;
    it->route.field_match_count = 4;
    it->route.not_before_s = 1000;
    it->route.not_after_s = 2000;
    it->fields_offset = fixture_array(f, fields, sizeof(fields));
    it->references_offset = fixture_array(f, &reference, sizeof(reference));
    it->host = fixture_text(f, host);
    it->route.path = fixture_text(f, path);
    it->route.path_written = it->route.path;
    it->route.kind = fixture_text(f, "HTTPRoute");
    it->route.object_namespace = fixture_text(f, "default");
    it->route.object_name = fixture_text(f, "gate");
    it->route.service = fixture_text(f, "web:80");
    fields[0].value = fixture_text(f, "POST");
    fields[1].name = fixture_text(f, "x-canary");
    fields[1].value = fixture_text(f, "always, 2");
    fields[2].name = fixture_text(f, "version");
    fields[2].value = fixture_text(f, "v[0-9]+");
    fields[3].name = fixture_text(f, "a");
    fields[3].value = fixture_text(f, "b");
    memcpy((uint8_t *)it + it->fields_offset, fields, sizeof(fields));
    fixture_end(f);
}

static inline void fixture_upstream(struct fixture *f, uint32_t slot)
{
    struct edge_fragment_upstream *it =
        fixture_begin(f, EDGE_FRAGMENT_UPSTREAM, sizeof(struct edge_fragment_upstream));

    it->upstream = (struct edge_image_upstream){
        .slot = slot,
        .generation = 1,
        .protocol = EDGE_PROTOCOL_HTTP1,
        .balance = EDGE_BALANCE_ROUND_ROBIN,
        .connect_ms = 5000,
        .read_ms = 60000,
        .send_ms = 60000,
        .idle_ms = 60000,
    };
    it->upstream.name = fixture_text(f, "default/web:80");
    fixture_end(f);
}

/* count endpoints 127.0.0.x from the given port. */
static inline void fixture_endpoints(struct fixture *f, uint32_t slot, uint32_t count,
                                     uint16_t port)
{
    struct edge_fragment_endpoints *it =
        fixture_begin(f, EDGE_FRAGMENT_ENDPOINTS, sizeof(struct edge_fragment_endpoints));

    it->upstream_slot = slot;
    it->endpoint_count = count;
    for (uint32_t i = 0; i < count; i++) {
        struct edge_image_endpoint endpoint = {
            .address = {[10] = 0xff, [11] = 0xff, [12] = 127, [15] = (uint8_t)(i + 1)},
            .port = port,
            .state = EDGE_ENDPOINT_READY,
        };
        uint32_t offset = fixture_array(f, &endpoint, sizeof(endpoint));
        if (i == 0)
            it->endpoints_offset = offset;
    }
    fixture_end(f);
}

static inline void fixture_certificate(struct fixture *f, uint8_t digest, const char *name,
                                       uint32_t role)
{
    struct edge_fragment_certificate *it =
        fixture_begin(f, EDGE_FRAGMENT_CERTIFICATE, sizeof(struct edge_fragment_certificate));
    struct edge_text text = {0};

    it->role = role;
    it->certificate.digest[0] = digest;
    it->names_count = 1;
    it->names_offset = fixture_array(f, &text, sizeof(text));
    text = fixture_text(f, name);
    memcpy((uint8_t *)it + it->names_offset, &text, sizeof(text));
    fixture_end(f);
}

static inline struct edge_image fixture_build(const struct fixture *f, uint32_t kind,
                                              uint64_t version, uint64_t base_version)
{
    struct edge_build_options options = {
        .kind = kind, .version = version, .base_version = base_version};
    struct edge_error err = {0};
    struct edge_image image;

    if (edge_image_build(f->bytes, f->used, &options, &image, &err) != EDGE_OK) {
        fprintf(stderr, "fixture: %d at %u/%u %s: %s\n", err.code, err.section, err.index,
                err.field, err.reason);
        abort();
    }
    return image;
}

/* Two listeners, eleven routes, two upstreams, two certificates: a bit of everything. */
static inline void fixture_everything(struct fixture *f)
{
    f->used = 0;
    fixture_listener(f, 0, EDGE_TRANSPORT_PLAIN);
    fixture_listener(f, 1, EDGE_TRANSPORT_TLS);
    fixture_upstream(f, 0);
    fixture_upstream(f, 7);
    fixture_endpoints(f, 0, 2, 8080);
    fixture_endpoints(f, 7, 1, 9090);
    fixture_route(f, 0, 20, "a.example", EDGE_PATH_PREFIX, "/");
    fixture_route(f, 1, 10, "a.example", EDGE_PATH_PREFIX, "/foo");
    fixture_route(f, 2, 5, "a.example", EDGE_PATH_EXACT, "/foo");
    fixture_route(f, 3, 10, "b.example", EDGE_PATH_PREFIX, "/foo/bar/");
    fixture_route(f, 4, 10, ".example", EDGE_PATH_PREFIX, "/wild");
    fixture_route(f, 5, 30, "", EDGE_PATH_PREFIX, "/");
    fixture_route(f, 6, 10, "", EDGE_PATH_EXACT, "/any");
    fixture_conditional(f, 7, 4, "a.example", EDGE_PATH_EXACT, "/foo");
    fixture_conditional(f, 8, 10, ".suffix.test", EDGE_PATH_PREFIX, "/foo");
    fixture_conditional(f, 9, 20, ".suffix.test", EDGE_PATH_REGEX, "/re/[0-9]{3}");
    fixture_route(f, 10, 25, "b.example", EDGE_PATH_STRING_PREFIX, "/te");
    fixture_certificate(f, 1, "a.example", 1);
    fixture_certificate(f, 2, ".example", 0);
}

#endif
