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

#include "include/edge_image.h" /* 3 to 5: the image and what it is made of */

/* cffi: begin */

/* ---- 1. Version ------------------------------------------------------------------------- */

#define EDGE_ABI_VERSION 3

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
/* Not the ABI's number: the memory outlives every version of the package, so this goes up only when
 * what stands in it moves. 2 is what the ABI's number was when it was also this one. */
#define EDGE_STATS_LAYOUT 2

/* How an exchange ended. requests = sum(outcomes) + in_flight, in every lane, always. */
enum edge_outcome {
    EDGE_OUTCOME_OK = 0,             /* a complete answer from an endpoint */
    EDGE_OUTCOME_LOCAL = 1,          /* a complete answer of our own (404, 503, redirect ...) */
    EDGE_OUTCOME_CLIENT_ABORT = 2,   /* the downstream side ended it */
    EDGE_OUTCOME_UPSTREAM_ABORT = 3, /* the endpoint broke off after its head was passed on */
    EDGE_OUTCOME_TUNNEL = 4,         /* became a tunnel, and ended */
    EDGE_OUTCOME_LOST = 5,           /* its data plane died, or gave it up: grace, memory */
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
    uint32_t layout; /* EDGE_STATS_LAYOUT */
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
    uint32_t memory_mb; /* what the process may use by its cgroup and limits; 0: no bound */
};

/* ---- 9. Matching, for `edge explain` and tests ------------------------------------------- */

struct edge_bytes {
    const char *at;
    size_t length;
};

struct edge_request_field {
    struct edge_bytes name;
    struct edge_bytes value;
};

struct edge_request {
    uint32_t listener; /* index, not slot */
    uint32_t field_count;
    struct edge_bytes host;   /* as in the Host field: port and case are normalised */
    struct edge_bytes path;   /* of the target */
    struct edge_bytes query;  /* behind '?' */
    struct edge_bytes method; /* empty: GET */
    const struct edge_request_field *fields;
    int64_t now_s; /* Unix time, 0: the clock's */
};

enum edge_verdict {
    EDGE_VERDICT_WON = 1,
    EDGE_VERDICT_SHADOWED = 2, /* matches, but a better one won */
    EDGE_VERDICT_PATH = 3,     /* its path does not match */
    EDGE_VERDICT_FIELD = 4,    /* a header, query or method does not match */
    EDGE_VERDICT_TIME = 5
};

struct edge_candidate {
    uint32_t route;      /* index in ROUTE */
    uint32_t verdict;    /* enum edge_verdict */
    uint32_t host_entry; /* index in HOST_ENTRY */
    uint32_t field;      /* of EDGE_VERDICT_FIELD: index + 1 in FIELD_MATCH, else 0 */
};

struct edge_explanation {
    uint32_t listener;  /* index */
    int32_t host_entry; /* of the winner, else the first that was tried; -1: no host matched */
    int32_t route;      /* index of the winner, -1: none */
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

/* A builder keeps objects between images: what did not change is not read again, and the same
 * objects give the same bytes as edge_image_build(). After an error it can only be closed.
 * Thread: one at a time; touches no worker. */
struct edge_builder;
int edge_builder_open(struct edge_builder **builder);
void edge_builder_close(struct edge_builder *builder);

/* Take in fragments, copied. A slot that is taken must be dropped first.
 * Errors: as edge_image_build(); err->index is edge_builder_number() of the fragment. */
int edge_builder_put(struct edge_builder *builder, const uint8_t *fragments, size_t bytes,
                     struct edge_error *err);

/* Let go of what is in a slot of ROUTE, UPSTREAM or ENDPOINTS, or of all LISTENERs or CERTIFICATEs,
 * which stand in the order in which they were put; their numbers count from 0. */
void edge_builder_drop(struct edge_builder *builder, uint32_t kind, uint32_t slot);

/* Lay out a full image, checked. Owns: out->bytes is the builder's, until the next call. */
int edge_builder_image(struct edge_builder *builder, const struct edge_build_options *options,
                       struct edge_image *out, struct edge_error *err);

/* What errors name a fragment by. Thread: any. */
uint32_t edge_builder_number(uint32_t kind, uint32_t slot);

/* The one validator. After EDGE_OK every offset, count, index and text in the image can be used
 * unchecked. Borrowed bytes, 8-byte aligned. Thread: any. Errors: all but NOMEM. */
int edge_image_check(const uint8_t *bytes, size_t size, struct edge_error *err);

/* Recompute the checksum in place (tests, tools). Thread: any. */
void edge_image_seal(uint8_t *bytes, size_t size);

/* The same for the secrets memfd: layout only, keys are parsed by the data plane. */
int edge_secrets_check(const uint8_t *bytes, size_t size, struct edge_error *err);

/* Match one request with the workers' own matcher and say what became of every candidate.
 * Borrowed image, checked before. Thread: any. Errors: INVALID for a host, path or number of
 * fields that the head parser would refuse or an expression that cannot be compiled, REFERENCE
 * for a listener index that is not there, NOMEM. */
int edge_image_explain(const uint8_t *bytes, size_t size, const struct edge_request *request,
                       struct edge_candidate *candidates, size_t candidates_max,
                       struct edge_explanation *out);

/* Match many requests: routes[i] becomes the index of request i's route, -1: none. Checks,
 * ownership and errors as above, the first one ends it. */
int edge_image_match(const uint8_t *bytes, size_t size, const struct edge_request *requests,
                     size_t count, int32_t *routes);

/* Can this regular expression be used? Thread: any. Errors: LIMIT, INVALID with PCRE2's words. */
int edge_pattern_check(const char *text, size_t length, struct edge_error *err);

/* Size of the stats memfd for a number of lanes, and its header written once by the holder's
 * first start (zeroed memory given). Thread: any. */
uint64_t edge_stats_bytes(uint32_t lanes);
int edge_stats_format(uint8_t *memory, uint64_t size, uint32_t lanes);

/* Run the data plane: rings, sandbox, workers, control loop. Returns when told to stop: 0, or
 * a negative code with err filled. Thread: the process's only one. */
int edge_data_run(const struct edge_data_config *config, struct edge_error *err);

/* cffi: end */

#endif
