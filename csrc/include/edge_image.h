/* The layout of a snapshot image, and of the fragments that it is built from: part of edge.h.
 *
 * Written by snapshot/build*.c, believed by nobody but after snapshot/check*.c, read by all. Never
 * included but through edge.h. The rules there hold here: host's byte order, padded by hand,
 * reserved fields zero, nothing that cffi's parser does not understand between the marks. */
#ifndef EDGE_IMAGE_H
#define EDGE_IMAGE_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */

/* ---- 3. Enumerations shared by fragments and image -------------------------------------- */

enum edge_section {
    EDGE_SECTION_LISTENER = 1,
    EDGE_SECTION_SNI_TABLE = 2,
    EDGE_SECTION_SNI_ENTRY = 3,
    EDGE_SECTION_HOST_TABLE = 4,
    EDGE_SECTION_HOST_ENTRY = 5,
    EDGE_SECTION_ROUTE = 6,
    EDGE_SECTION_FIELD_MATCH = 7,
    EDGE_SECTION_FILTER = 8,
    EDGE_SECTION_REFERENCE = 9,
    EDGE_SECTION_UPSTREAM = 10,
    EDGE_SECTION_ENDPOINT = 11,
    EDGE_SECTION_TEMPLATE = 12,
    EDGE_SECTION_CERTIFICATE = 13,
    EDGE_SECTION_PREFIX = 14,
    EDGE_SECTION_TEXT = 15,
    EDGE_SECTION_PATH_INDEX = 16,
    EDGE_SECTION_PATH_ENTRY = 17,
    EDGE_SECTION_PATH_OTHER = 18,
    EDGE_SECTION_CONDITION = 19,
    EDGE_SECTION_ACTION = 20,
    EDGE_SECTION_OBJECT = 21,
    EDGE_SECTION_PATTERN = 22,
    EDGE_SECTION_COUNT = 23 /* one more than the last */
};

enum edge_transport { EDGE_TRANSPORT_PLAIN = 1, EDGE_TRANSPORT_TLS = 2 };
enum edge_sni_action { EDGE_SNI_TERMINATE = 1, EDGE_SNI_PASSTHROUGH = 2, EDGE_SNI_REJECT = 3 };
enum edge_path_type {
    EDGE_PATH_EXACT = 1,
    EDGE_PATH_PREFIX = 2, /* by elements */
    EDGE_PATH_REGEX = 3,
    EDGE_PATH_STRING_PREFIX = 4 /* as text: "/foo" takes "/foobar" */
};
enum edge_field_target { EDGE_FIELD_HEADER = 1, EDGE_FIELD_QUERY = 2, EDGE_FIELD_METHOD = 3 };
enum edge_field_type { EDGE_FIELD_EXACT = 1, EDGE_FIELD_REGEX = 2 };
enum edge_wildcard {
    EDGE_WILDCARD_NONE = 0,
    EDGE_WILDCARD_LABEL = 1, /* *.example.com is one label more (Ingress) */
    EDGE_WILDCARD_SUFFIX = 2 /* one or more (Gateway API) */
};
enum edge_filter_kind { EDGE_FILTER_DELAY = 1 /* arg: milliseconds */ };
enum edge_protocol { EDGE_PROTOCOL_HTTP1 = 1 };
enum edge_balance { EDGE_BALANCE_ROUND_ROBIN = 1 };
enum edge_endpoint_state { EDGE_ENDPOINT_READY = 1, EDGE_ENDPOINT_DRAINING = 2 };
enum edge_image_kind { EDGE_IMAGE_FULL = 1, EDGE_IMAGE_PATCH = 2 };

/* Text in the image's text section, or (in a fragment) from the fragment's first byte. */
struct edge_text {
    uint32_t offset;
    uint32_t length;
};

/* ---- 4. Image: header and sections ------------------------------------------------------ */

#define EDGE_IMAGE_MAGIC 0x31474d4945474445 /* "EDGEIMG1" read as little-endian 64 bit */
#define EDGE_IMAGE_BYTES_MAX 268435456      /* 256 MiB */
#define EDGE_ROUTE_SLOTS 131072
#define EDGE_UPSTREAM_SLOTS 32768
#define EDGE_LISTENER_SLOTS 64

struct edge_section_entry {
    uint64_t offset; /* from the image's first byte, a multiple of 64: a cache line */
    uint32_t count;  /* entries (bytes for the text section) */
    uint32_t entry_bytes;
};

struct edge_image_header {
    uint64_t magic;
    uint32_t abi;
    uint32_t kind;        /* enum edge_image_kind */
    uint64_t total_bytes; /* of the whole image */
    uint64_t checksum;    /* over the image with this field zero */
    uint64_t version;
    uint64_t base_version; /* of a patch; 0 in a full image */
    uint8_t routes_digest[32];
    uint8_t endpoints_digest[32];
    uint32_t section_count; /* EDGE_SECTION_COUNT - 1 */
    uint32_t reserved;
    struct edge_section_entry section[23]; /* by enum edge_section; [0] is zero */
};

struct edge_image_listener {
    uint32_t slot;
    uint32_t generation;
    uint8_t address[16]; /* IPv6, or IPv4 as ::ffff:a.b.c.d */
    uint16_t port;
    uint8_t transport;      /* enum edge_transport */
    uint8_t proxy_protocol; /* must be 0 in this version */
    uint32_t host_table;    /* index in HOST_TABLE */
    uint32_t sni_table;     /* index + 1 in SNI_TABLE, 0 for plain */
    uint32_t first_trusted; /* PREFIX entries whose X-Forwarded-* is believed */
    uint32_t trusted_count;
    uint32_t head_bytes_max;   /* request head; over it: 431 */
    uint32_t target_bytes_max; /* request target; over it: 414 */
    uint32_t idle_ms;          /* kept connection without a request */
    uint32_t head_ms;          /* first byte of a head to its end */
    uint32_t reserved[2];
};

/* Open addressing: entries [first_entry, first_entry + mask + 1) are the buckets. A wildcard
 * *.example.com is stored as its suffix ".example.com". Hash: edge_text_hash. */
struct edge_image_table {
    uint32_t first_entry;
    uint32_t mask;      /* buckets - 1, buckets a power of two */
    uint32_t fallback;  /* index + 1: HOST: host entry for "any host"; SNI: certificate */
    uint32_t wildcards; /* HOST: bit 0: there are one-label wildcards; bit n, 1..31: there are
                           suffix wildcards of n labels (31: or more). SNI: 0 */
};

struct edge_image_sni_entry {
    struct edge_text name; /* lower case; length 0: empty bucket */
    uint32_t hash;
    uint32_t wildcard;
    uint32_t action;      /* enum edge_sni_action */
    uint32_t certificate; /* index in CERTIFICATE */
};

/* A bucket is 16 bytes, so that one cache line holds four. Routes of a host stand together, best
 * precedence first, from first_route on; how many there are is in its path index. */
struct edge_image_host_entry {
    uint16_t tag;         /* upper half of the name's hash */
    uint8_t name_length;  /* 0: empty bucket (or the "any host" entry) */
    uint8_t wildcard;     /* enum edge_wildcard */
    uint32_t name_offset; /* in the text section; lower case */
    uint32_t first_route;
    uint32_t path_index; /* index in PATH_INDEX; hosts with the same paths share one */
};

/* How a path finds its routes. A path's key is its text, for a prefix without the one slash at its
 * end, and counts as many elements as it has slashes. The buckets [first_entry, + mask + 1) hold
 * keys of at most 62 elements. Behind them stand text_buckets more for prefixes by text of at most
 * 127 bytes: their hash is edge_text_hash, their route stands in `exact`. What is deeper or longer,
 * and regular expressions, are "others", tried one by one.
 * Routes are numbered from the host's first, so the index says nothing of a host itself. */
struct edge_image_path_index {
    uint64_t exact_counts;  /* bit n: there is an exact path of n elements */
    uint64_t prefix_counts; /* bit n: there is a prefix of n elements */
    uint32_t first_entry;
    uint32_t mask;
    uint32_t first_other;
    uint32_t other_count;
    uint32_t route_count;     /* of each host with this index */
    uint32_t flags;           /* EDGE_PATHS_* */
    uint32_t first_route;     /* of the first host with this index */
    uint32_t text_buckets;    /* a power of two, or 0 */
    uint64_t text_lengths[2]; /* bit n of 128: there is a prefix by text of n bytes */
};

#define EDGE_PATHS_ORDERED 1      /* a longer key always wins: the first that is found is best */
#define EDGE_PATHS_FALL_THROUGH 2 /* what no path matches may go to a less specific host */
#define EDGE_PATH_ELEMENTS_MAX 62
#define EDGE_PATH_TEXT_MAX 127

struct edge_image_path_entry {
    uint16_t tag; /* upper half of the key's hash */
    uint16_t key_length;
    uint32_t key_offset; /* in the text section */
    uint32_t exact;      /* number + 1 of the first route with that key, 0: none; its top bit: */
    uint32_t prefix;     /* the route has conditions, look at it before taking it */
};

#define EDGE_PATH_CONDITIONAL 2147483648

/* An expression, or a path too deep or too long for the buckets; ascending within an index.
 */
struct edge_image_path_other {
    uint32_t route; /* number within the host */
};

/* One cache line. What many routes have in common stands once, in OBJECT, ACTION, CONDITION. */
struct edge_image_route {
    uint32_t slot;
    uint32_t generation;
    uint64_t precedence;           /* smaller wins within a host */
    struct edge_text path;         /* as matched */
    struct edge_text path_written; /* as the object has it */
    uint32_t path_type;            /* enum edge_path_type */
    uint32_t next;      /* number + 1 of the host's next route with the same key and type */
    uint32_t condition; /* index + 1 in CONDITION, 0: none */
    uint32_t action;    /* index in ACTION */
    uint32_t object;    /* index in OBJECT */
    uint32_t rule_index;
    uint32_t path_index; /* within the rule, for people */
    uint32_t pattern;    /* index + 1 in PATTERN for EDGE_PATH_REGEX, else 0 */
};

/* All of them must hold. */
struct edge_image_condition {
    uint32_t first_field_match;
    uint32_t field_match_count;
    int64_t not_before_s; /* Unix time, 0: none */
    int64_t not_after_s;
};

/* Header names are lower case. Queries are compared decoded. */
struct edge_image_field_match {
    uint32_t target; /* enum edge_field_target */
    uint32_t type;   /* enum edge_field_type */
    struct edge_text name;
    struct edge_text value;
    uint32_t pattern; /* index + 1 in PATTERN for EDGE_FIELD_REGEX, else 0 */
    uint32_t reserved;
};

/* Text of a regular expression (PCRE2); it must match the whole of its subject. */
struct edge_image_pattern {
    struct edge_text text;
};

/* What happens to a request. */
struct edge_image_action {
    uint32_t flags; /* EDGE_ROUTE_* */
    uint32_t reserved;
    uint32_t first_filter;
    uint32_t filter_count;
    uint32_t first_reference;
    uint32_t reference_count;
    uint64_t body_bytes_max;  /* over it: 413; 0: no limit */
    struct edge_text service; /* "name:port" as written, for people */
};

#define EDGE_ROUTE_REDIRECT_HTTPS 1 /* plain listeners answer 308 to https */

/* Who wrote a route. */
struct edge_image_object {
    struct edge_text kind; /* "Ingress" */
    struct edge_text object_namespace;
    struct edge_text object_name;
};

struct edge_image_filter {
    uint32_t kind; /* enum edge_filter_kind */
    uint32_t reserved;
    uint64_t argument;
};

struct edge_image_reference {
    uint32_t upstream_slot;
    uint32_t weight; /* 0: never chosen */
};

struct edge_image_upstream {
    uint32_t slot;
    uint32_t generation;
    uint32_t protocol; /* enum edge_protocol */
    uint32_t balance;  /* enum edge_balance */
    uint32_t first_endpoint;
    uint32_t endpoint_count;
    uint32_t connect_ms;
    uint32_t read_ms;      /* between two reads of an answer */
    uint32_t send_ms;      /* between two writes of a request */
    uint32_t idle_ms;      /* kept upstream connection */
    struct edge_text name; /* "namespace/service:port" */
};

struct edge_image_endpoint {
    uint8_t address[16];
    uint16_t port;
    uint16_t state; /* enum edge_endpoint_state */
    uint32_t reserved;
    struct edge_text zone;
};

struct edge_image_template {
    uint32_t variable;
    uint32_t reserved;
    struct edge_text literal;
};

struct edge_image_certificate {
    uint8_t digest[32]; /* SHA-256 over chain and key; finds both in the secrets */
};

struct edge_image_prefix {
    uint8_t address[16];
    uint32_t bits; /* 0..128; IPv4 prefixes count from 96 */
    uint32_t reserved;
};

/* ---- 5. Fragments: what edge_image_build() takes ---------------------------------------- */

/* A fragment is one of the structs below, then its arrays and texts; all offsets count from the
 * fragment's first byte; size is a multiple of 8. Fragments are simply concatenated. The struct
 * inside has the image's own type: its `first_*` and table fields are filled by the build and
 * must be zero, its texts are offsets into the fragment. */
enum edge_fragment_kind {
    EDGE_FRAGMENT_LISTENER = 1,
    EDGE_FRAGMENT_ROUTE = 2,
    EDGE_FRAGMENT_UPSTREAM = 3,
    EDGE_FRAGMENT_ENDPOINTS = 4, /* the endpoints of one upstream slot, apart from its policy */
    EDGE_FRAGMENT_CERTIFICATE = 5
};

struct edge_fragment {
    uint32_t kind; /* enum edge_fragment_kind */
    uint32_t bytes;
};

struct edge_fragment_listener {
    struct edge_fragment head;
    uint32_t domain;         /* routes and certificates of the same domain are served here */
    uint32_t trusted_offset; /* struct edge_image_prefix[listener.trusted_count] */
    struct edge_image_listener listener;
};

/* A route as the controller says it; the build shares what is the same. */
struct edge_route {
    uint32_t slot;
    uint32_t generation;
    uint64_t precedence; /* smaller wins within a host; equal ones: exact first, the longer path, */
    int64_t created_s;   /* the older, then namespace and name, then rule and path */
    struct edge_text path;
    uint32_t path_type; /* enum edge_path_type */
    uint32_t flags;     /* EDGE_ROUTE_* */
    uint32_t field_match_count;
    uint32_t filter_count;
    uint32_t reference_count;
    uint32_t reserved;
    uint64_t body_bytes_max;
    int64_t not_before_s;
    int64_t not_after_s;
    struct edge_text kind;
    struct edge_text object_namespace;
    struct edge_text object_name;
    struct edge_text path_written;
    struct edge_text service;
    uint32_t rule_index;
    uint32_t path_index;
};

struct edge_fragment_route {
    struct edge_fragment head;
    uint32_t domain;
    uint32_t wildcard;      /* enum edge_wildcard; then host is a suffix ".example.com" */
    uint32_t fall_through;  /* 1: what no path of the host matches goes on to less specific hosts */
    uint32_t fields_offset; /* struct edge_image_field_match[route.field_match_count] */
    struct edge_text host;  /* lower case; length 0: any host */
    uint32_t filters_offset;    /* struct edge_image_filter[route.filter_count] */
    uint32_t references_offset; /* struct edge_image_reference[route.reference_count] */
    struct edge_route route;
};

struct edge_fragment_upstream {
    struct edge_fragment head;
    struct edge_image_upstream upstream; /* endpoint_count 0: they come as ENDPOINTS */
};

struct edge_fragment_endpoints {
    struct edge_fragment head;
    uint32_t upstream_slot;
    uint32_t endpoint_count;
    uint32_t endpoints_offset; /* struct edge_image_endpoint[endpoint_count] */
    uint32_t reserved;
};

enum edge_certificate_role {
    EDGE_CERTIFICATE_NAMED = 0,
    EDGE_CERTIFICATE_DEFAULT = 1, /* also served to names that no entry covers */
    EDGE_CERTIFICATE_REJECT = 2,  /* no certificate: handshakes for the names are refused */
};

/* Those that reject come after all others. */
struct edge_fragment_certificate {
    struct edge_fragment head;
    uint32_t domain;
    uint32_t role; /* enum edge_certificate_role */
    uint32_t names_count;
    uint32_t names_offset; /* struct edge_text[names_count], ".example.com" for a wildcard */
    struct edge_image_certificate certificate;
};

struct edge_build_options {
    uint32_t kind; /* enum edge_image_kind; a patch takes UPSTREAM and ENDPOINTS only */
    uint32_t reserved;
    uint64_t version;
    uint64_t base_version;
    uint8_t routes_digest[32];
    uint8_t endpoints_digest[32];
};

struct edge_image {
    uint8_t *bytes;
    uint64_t size;
};

/* cffi: end */

#endif
