/* The one public header of the data plane: what Python, tests and tools may call.
 *
 * Order: version, errors, fragments (input), image (result), secrets, shared memory, control
 * messages, functions. Everything between the two `cffi` markers is cut out by
 * csrc/build_native.py and given to cffi as it stands, so it may only hold what cffi's parser
 * understands: no preprocessor conditionals, no function-like macros, plain integer #defines.
 * A struct that the kernel shares lives in bpf/edge_abi.h, never here.
 *
 * All integers are in the host's byte order unless a name ends in _be. All structs are padded by
 * hand; reserved fields must be zero and the check refuses anything else.
 */
#ifndef EDGE_H
#define EDGE_H

#include <stddef.h>
#include <stdint.h>

/* cffi: begin */

/* ---- 1. Version ------------------------------------------------------------------------- */

#define EDGE_ABI_VERSION 1

/* ---- 2. Errors -------------------------------------------------------------------------- */

/* One list: name, number. Texts stand in base/error.c in the same order and a test compares. */
enum edge_status {
    EDGE_OK = 0,
    EDGE_ERR_NOMEM = -1,
    EDGE_ERR_LIMIT = -2,     /* a count or size is over what the format allows */
    EDGE_ERR_INVALID = -3,   /* a field has a value that it must not have */
    EDGE_ERR_TRUNCATED = -4, /* fewer bytes than the header promises */
    EDGE_ERR_CHECKSUM = -5,
    EDGE_ERR_ABI = -6,       /* made by another version */
    EDGE_ERR_REFERENCE = -7, /* names a slot or an entry that is not there */
    EDGE_ERR_SECTION = -8,   /* unknown, missing, or overlapping section */
    EDGE_ERR_SECRET = -9,    /* key or certificate missing or unusable */
    EDGE_ERR_BASE = -10,     /* a patch for another base version */
    EDGE_ERR_SYSTEM = -11,   /* a system call failed; sys_errno says how */
    EDGE_ERR_SANDBOX = -12   /* the sandbox could not be entered as asked */
};

struct edge_error {
    int32_t code;      /* enum edge_status */
    int32_t sys_errno; /* 0 or the errno of the call that failed */
    uint32_t section;  /* enum edge_section, 0 when none */
    uint32_t index;    /* entry in that section, or fragment number in edge_image_build */
    char field[32];    /* name of the offending field, "" when none */
    char reason[128];  /* one sentence for an operator */
};

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
    EDGE_SECTION_COUNT = 16 /* one more than the last */
};

enum edge_transport { EDGE_TRANSPORT_PLAIN = 1, EDGE_TRANSPORT_TLS = 2 };
enum edge_sni_action { EDGE_SNI_TERMINATE = 1, EDGE_SNI_PASSTHROUGH = 2, EDGE_SNI_REJECT = 3 };
enum edge_path_type { EDGE_PATH_EXACT = 1, EDGE_PATH_PREFIX = 2, EDGE_PATH_REGEX = 3 };
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
    uint64_t offset; /* from the image's first byte, a multiple of 8 */
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
    struct edge_section_entry section[16]; /* by enum edge_section; [0] is zero */
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
 * *.example.com is stored as its suffix ".example.com" with wildcard = 1. Hash: edge_text_hash. */
struct edge_image_table {
    uint32_t first_entry;
    uint32_t mask;     /* buckets - 1, buckets a power of two */
    uint32_t fallback; /* index + 1: HOST: host entry for "any host"; SNI: certificate */
    uint32_t reserved;
};

struct edge_image_sni_entry {
    struct edge_text name; /* lower case; length 0: empty bucket */
    uint32_t hash;
    uint32_t wildcard;
    uint32_t action;      /* enum edge_sni_action */
    uint32_t certificate; /* index in CERTIFICATE */
};

struct edge_image_host_entry {
    struct edge_text name; /* lower case; length 0: empty bucket (or the "any host" entry) */
    uint32_t hash;
    uint32_t wildcard;
    uint32_t flags;       /* case, path mode, slash rule, normalisation: 0 in this version */
    uint32_t first_route; /* routes of a host stand together, best precedence first */
    uint32_t route_count;
    uint32_t reserved;
};

struct edge_image_route {
    uint32_t slot;
    uint32_t generation;
    uint64_t precedence; /* smaller wins within a host */
    struct edge_text path;
    uint32_t path_type; /* enum edge_path_type */
    uint32_t flags;     /* EDGE_ROUTE_* */
    uint32_t first_field_match;
    uint32_t field_match_count;
    uint32_t first_filter;
    uint32_t filter_count;
    uint32_t first_reference;
    uint32_t reference_count;
    uint64_t body_bytes_max; /* over it: 413; 0: no limit */
    int64_t not_before_s;    /* Unix time, 0: none */
    int64_t not_after_s;
    struct edge_text kind; /* "Ingress" */
    struct edge_text object_namespace;
    struct edge_text object_name;
    struct edge_text path_written;
    struct edge_text service; /* "name:port" as written, for people */
    uint32_t rule_index;
    uint32_t path_index;
};

#define EDGE_ROUTE_REDIRECT_HTTPS 1 /* plain listeners answer 308 to https */

struct edge_image_field_match {
    uint32_t target; /* header, query, method */
    uint32_t type;
    struct edge_text name;
    struct edge_text value;
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

struct edge_fragment_route {
    struct edge_fragment head;
    uint32_t domain;
    uint32_t wildcard;          /* host is a suffix ".example.com" */
    struct edge_text host;      /* lower case; length 0: any host */
    uint32_t filters_offset;    /* struct edge_image_filter[route.filter_count] */
    uint32_t references_offset; /* struct edge_image_reference[route.reference_count] */
    struct edge_image_route route;
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

struct edge_fragment_certificate {
    struct edge_fragment head;
    uint32_t domain;
    uint32_t is_default; /* served to names that no entry covers */
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

/* ---- 6. Secrets: a second sealed memfd, never the image ---------------------------------- */

#define EDGE_SECRETS_MAGIC 0x3154435345474445 /* "EDGESCT1" */

struct edge_secrets_header {
    uint64_t magic;
    uint64_t total_bytes;
    uint32_t count;
    uint32_t reserved;
};

struct edge_secret {
    uint8_t digest[32];
    uint32_t chain_offset; /* PEM, leaf first, from the first byte of the secrets */
    uint32_t chain_bytes;
    uint32_t key_offset; /* PEM */
    uint32_t key_bytes;
};

/* ---- 7. Shared memory ------------------------------------------------------------------- */

#define EDGE_COMMIT_MAGIC 0x31544d4345474445 /* "EDGECMT1" */

/* The commit page: one 4 KiB memfd, written by the holder, read by the data plane. */
struct edge_commit_page {
    uint64_t magic;
    uint64_t version; /* the committed version; a restarted data plane serves this one */
};

#define EDGE_STATS_MAGIC 0x3154415345474445 /* "EDGESAT1" */

/* How an exchange ended. requests = sum(outcomes) + in_flight, in every lane, always. */
enum edge_outcome {
    EDGE_OUTCOME_OK = 0,             /* a complete answer from an endpoint */
    EDGE_OUTCOME_LOCAL = 1,          /* a complete answer of our own (404, 503, redirect ...) */
    EDGE_OUTCOME_CLIENT_ABORT = 2,   /* the downstream side ended it */
    EDGE_OUTCOME_UPSTREAM_ABORT = 3, /* the endpoint broke off after its head was passed on */
    EDGE_OUTCOME_TUNNEL = 4,         /* became a tunnel, and ended */
    EDGE_OUTCOME_LOST = 5,           /* its data plane died, or a drain's grace was over */
    EDGE_OUTCOME_COUNT = 6
};

struct edge_route_cell {
    uint32_t generation; /* of the slot; another one than the image's: cell starts from zero */
    uint32_t reserved;
    uint64_t requests;
    uint64_t status[5]; /* 1xx..5xx */
    uint64_t bytes_out; /* body bytes to the client */
};

struct edge_upstream_cell {
    uint32_t generation;
    uint32_t in_flight;
    uint64_t requests;
    uint64_t status[5];
    uint64_t connects;
    uint64_t connect_errors;
    uint64_t timeouts;
    uint64_t resets; /* broke off before the answer ended */
    uint64_t retries;
};

/* A lane has one writer, a worker thread. */
struct edge_lane {
    uint64_t requests;
    uint64_t outcomes[6]; /* enum edge_outcome */
    uint64_t in_flight;
    uint64_t connections; /* accepted */
    uint64_t connections_open;
    uint64_t bytes_in;
    uint64_t bytes_out;
    uint64_t tls_handshakes;
    uint64_t tls_errors;
    uint64_t log_lines;
    uint64_t log_dropped;
    uint64_t accept_errors;  /* descriptor or memory limit reached */
    uint64_t version;        /* image version this worker serves */
    uint64_t loop_ns;        /* CLOCK_MONOTONIC at the top of its loop: the watchdog's food */
    uint64_t pid;            /* of the data plane that owns the lane; 0: free */
    uint64_t latency[32];    /* log2 histogram of microseconds to the end of the answer */
    uint64_t tunnels;        /* open */
    uint64_t connect_limits; /* no descriptor for a connection to an endpoint */
    uint64_t memory_errors;  /* something was refused for want of memory */
    uint64_t reserved[9];    /* fills 512 bytes: lanes share no cache line */
};

/* One memfd: header, lanes[lane_count], route cells[lane][EDGE_ROUTE_SLOTS], upstream
 * cells[lane][EDGE_UPSTREAM_SLOTS]. Sparse: only cells in use take memory. */
struct edge_stats_header {
    uint64_t magic;
    uint32_t abi;
    uint32_t lane_count;
    uint64_t total_bytes;
    uint64_t lanes_offset;
    uint64_t route_cells_offset;
    uint64_t upstream_cells_offset;
};

/* ---- 8. Running the data plane ---------------------------------------------------------- */

enum edge_loop_kind { EDGE_LOOP_AUTO = 0, EDGE_LOOP_URING = 1, EDGE_LOOP_EPOLL = 2 };
enum edge_log_format { EDGE_LOG_TEXT = 0, EDGE_LOG_JSON = 1 };

struct edge_data_config {
    int32_t control_fd; /* SOCK_SEQPACKET to the holder; messages: edge/messages.py, note 0001 */
    int32_t stats_fd;
    int32_t commit_fd;
    int32_t log_fd; /* -1: no access log */
    uint32_t log_format;
    uint32_t loop; /* enum edge_loop_kind */
    uint32_t workers;
    uint32_t lane_first; /* lanes [lane_first, lane_first + workers) are ours alone */
    uint32_t uid;        /* 0: stay who we are (only when not started as root) */
    uint32_t gid;
    uint32_t grace_ms;
    uint32_t reserved;
};

/* ---- 9. Matching, for `edge explain` and tests ------------------------------------------- */

enum edge_verdict {
    EDGE_VERDICT_WON = 1,
    EDGE_VERDICT_SHADOWED = 2, /* matches, but a better one won */
    EDGE_VERDICT_PATH = 3,     /* its path does not match */
    EDGE_VERDICT_FIELD = 4,    /* a header, query or method does not match */
    EDGE_VERDICT_TIME = 5
};

struct edge_candidate {
    uint32_t route; /* index in ROUTE */
    uint32_t verdict;
};

struct edge_explanation {
    uint32_t listener;        /* index */
    int32_t host_entry;       /* index, -1: no host matched */
    int32_t route;            /* index of the winner, -1: none */
    uint32_t candidate_count; /* how many of candidates[] were filled */
};

/* ---- 10. Functions ---------------------------------------------------------------------- */

/* The ABI this library was built with. Thread: any. Errors: none. */
uint32_t edge_abi_version(void);

/* Text for a negative code, "ok" for 0. Thread: any. Owns: static. */
const char *edge_strerror(int code);

/* Hash of a host or server name as the tables use it. Thread: any. */
uint32_t edge_text_hash(const char *text, size_t length);

/* Lay out one image from concatenated fragments.
 * Owns:    copies everything; out->bytes is the caller's, to be freed by edge_image_free().
 * Thread:  any; touches no worker.
 * Errors:  NOMEM, LIMIT, INVALID, REFERENCE, TRUNCATED; err->index is the fragment's number. */
int edge_image_build(const uint8_t *fragments, size_t bytes,
                     const struct edge_build_options *options, struct edge_image *out,
                     struct edge_error *err);
void edge_image_free(struct edge_image *image);

/* The one validator. After EDGE_OK every offset, count, index and text in the image can be used
 * unchecked. Borrowed bytes, 8-byte aligned. Thread: any. Errors: all but NOMEM. */
int edge_image_check(const uint8_t *bytes, size_t size, struct edge_error *err);

/* Recompute the checksum in place (tests, tools). Thread: any. */
void edge_image_seal(uint8_t *bytes, size_t size);

/* The same for the secrets memfd: layout only, keys are parsed by the data plane. */
int edge_secrets_check(const uint8_t *bytes, size_t size, struct edge_error *err);

/* Match one request with the workers' own matcher and say what became of every candidate.
 * host: as in the Host field (port and case are normalised); path: the target's path.
 * Borrowed image, checked before. Thread: any. Errors: INVALID for a host or path that the
 * head parser would refuse, REFERENCE for a listener index that is not there. */
int edge_image_explain(const uint8_t *bytes, size_t size, uint32_t listener, const char *host,
                       size_t host_length, const char *path, size_t path_length,
                       struct edge_candidate *candidates, size_t candidates_max,
                       struct edge_explanation *out);

/* Size of the stats memfd for a number of lanes, and its header written once by the holder's
 * first start (zeroed memory given). Thread: any. */
uint64_t edge_stats_bytes(uint32_t lanes);
int edge_stats_format(uint8_t *memory, uint64_t size, uint32_t lanes);

/* Run the data plane: rings, sandbox, workers, control loop. Returns when told to stop: 0, or
 * a negative code with err filled. Thread: the process's only one. */
int edge_data_run(const struct edge_data_config *config, struct edge_error *err);

/* cffi: end */

#endif
