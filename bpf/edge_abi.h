/* The one layout that kernel, C and Python share: keys and values of every map, reasons, limits.
 *
 * Included by the packet programs (compiled by bcc), by the data plane (it stamps the heartbeat)
 * and, between the two `cffi` markers, cut out by csrc/build_native.py for Python. The loader
 * compares the compiler's BTF of these structs with cffi's layout and refuses to attach if they
 * differ.
 *
 * Rules: no preprocessor inside the markers but plain integer #defines; structs are padded by hand;
 * reserved fields are zero; a field whose unit changes gets another name, since maps outlive
 * programs. Addresses are 16 bytes in network order, IPv4 as ::ffff:a.b.c.d.
 */
#ifndef EDGE_ABI_H
#define EDGE_ABI_H

#ifdef __KERNEL__
#include <linux/types.h>
#else
#include <stdint.h>
#endif

/* cffi: begin */

#define EDGE_BPF_ABI 1

/* ---- Limits ----------------------------------------------------------------------------- */

#define EDGE_VIPS_MAX 4096           /* entries in one generation, wildcards included */
#define EDGE_SOURCE_RULES_MAX 131072 /* exact rules in one generation */
#define EDGE_SHORT_RULES_MAX 16384   /* rules in the trie in one generation */
#define EDGE_BUCKETS 131072          /* sources remembered; the least recent is forgotten */
#define EDGE_LENGTHS_V4 9            /* prefix lengths 24 to 32 */
#define EDGE_LENGTHS_V6 8            /* distinct lengths of 48 and more; others go to the trie */
#define EDGE_FRONT_V4_WORDS 262144   /* one bit for each /24, one generation */
#define EDGE_FRONT_V6_WORDS 16384    /* 2^20 bits of Bloom filter over /48, one generation */
#define EDGE_RATE_SHIFT 4            /* clock of the buckets: 1/16 ns */

/* ---- Counters --------------------------------------------------------------------------- */

/* What became of a packet: the key of edge_counts. The first entry counts every packet as it comes
 * in, each other one is an end: offered = passed + dropped + transmitted. Counters outlive the
 * program: a number is never given to something else. */
enum edge_drop {
    EDGE_OFFERED = 0,
    EDGE_PASS_OTHER = 1,        /* not to a VIP: untouched */
    EDGE_PASS_POLICED = 2,      /* to a VIP, and within every limit */
    EDGE_PASS_ALLOWED = 3,      /* its source stands in an allow list */
    EDGE_PASS_STALE = 4,        /* dead-man: nobody serves, its policy says pass */
    EDGE_PASS_IDLE = 5,         /* no generation was ever committed */
    EDGE_DROP_MALFORMED = 6,    /* a header that is cut short or contradicts itself */
    EDGE_DROP_FRAGMENT = 7,     /* a fragment that names, or hides, a port of a VIP */
    EDGE_DROP_DENIED = 8,       /* its source stands in a deny list */
    EDGE_DROP_PACKETS = 9,      /* over the packets a second of its source */
    EDGE_DROP_CONNECTIONS = 10, /* over the connections a second of its source */
    EDGE_DROP_STALE = 11,       /* dead-man: nobody serves, its policy says drop */
    EDGE_TRANSMIT = 12,         /* answered in place; nothing does so yet */
    EDGE_REASON_COUNT = 13      /* one more than the last */
};

struct edge_count {
    uint64_t packets;
    uint64_t bytes; /* from the Ethernet header to the end, all fragments of a jumbo frame */
};

/* ---- Control ---------------------------------------------------------------------------- */

/* The commit word: version * 2 + generation; 0 until the first commit. A packet reads it once. */
struct edge_control {
    uint64_t commit;
};

/* Stamps of CLOCK_MONOTONIC in nanoseconds; the programs take the newer one. One cache line for
 * each of the two writers. Mapped by holder and data plane, never written by the programs. */
struct edge_heartbeat {
    uint64_t holder_ns;
    uint64_t holder_reserved[7];
    uint64_t data_ns;
    uint64_t data_reserved[7];
};

/* ---- Settings: edge_settings[generation] ------------------------------------------------- */

#define EDGE_SETTING_NODE 1       /* a policy has scope: node */
#define EDGE_SETTING_STALE_DROP 2 /* dead-man drops; otherwise it passes */
#define EDGE_SETTING_RULES_V4 4   /* there are rules for IPv4 sources */
#define EDGE_SETTING_RULES_V6 8
#define EDGE_SETTING_SHORT_V4 16 /* some of them stand in the trie */
#define EDGE_SETTING_SHORT_V6 32

/* Limits for each source. Intervals and slack in 1/16 ns; an interval of 0 is no limit. */
struct edge_rate {
    uint64_t packet_interval;
    uint64_t packet_slack; /* how far a source may run ahead of its rate: the burst */
    uint64_t connection_interval;
    uint64_t connection_slack;
    uint64_t mask_high_be; /* which address bits name a source: IPv6, first half */
    uint64_t mask_low_be;
    uint32_t mask_v4_be;
    uint32_t reserved;
};

struct edge_settings {
    uint32_t flags;
    uint32_t reserved;
    uint64_t dead_man_ns;   /* 0: off */
    uint8_t lengths_v4[16]; /* of exact rules, longest first, 0 ends */
    uint8_t lengths_v6[16];
    struct edge_rate listener; /* for packets to a VIP */
    struct edge_rate node;     /* for packets to another port of this node, with scope: node */
};

/* ---- VIPs: edge_vips -------------------------------------------------------------------- */

#define EDGE_VIP_PORT 1 /* a served address, port and protocol */
#define EDGE_VIP_ADDRESS                                                                           \
    2 /* port and protocol 0: an address that has VIPs, or is the node's own                       \
       */

struct edge_vip_key {
    uint8_t address[16];
    uint16_t port_be;
    uint8_t protocol; /* 6 or 17 */
    uint8_t generation;
};

struct edge_vip {
    uint32_t flags;
};

/* ---- Rules by source: edge_sources (exact), edge_short (trie) ---------------------------- */

/* The most specific rule of the packet's scope decides; of equal ones, allow. */
#define EDGE_RULE_DENY 1
#define EDGE_RULE_ALLOW 2
#define EDGE_RULE_NODE_DENY 4 /* the same for packets to another port of this node */
#define EDGE_RULE_NODE_ALLOW 8

struct edge_source_key {
    uint8_t address[16]; /* host bits zero */
    uint8_t prefix;      /* 24 to 32, or 48 to 128 */
    uint8_t family;      /* 4 or 6 */
    uint8_t generation;
    uint8_t reserved;
};

/* Key of a longest-prefix trie: the compared bits begin at `generation`. */
struct edge_short_key {
    uint32_t prefix_bits; /* 32 + prefix length */
    uint8_t generation;
    uint8_t family;
    uint8_t reserved[2];
    uint8_t address[16]; /* IPv4 in the first four bytes */
};

struct edge_source_rule {
    uint32_t flags;
};

/* ---- State of a source: edge_buckets ---------------------------------------------------- */

struct edge_bucket_key {
    uint8_t address[16];
    uint32_t node; /* 1: judged by the node's rate */
};

/* When the source will have paid for what it sent, in 1/16 ns of CLOCK_MONOTONIC. */
struct edge_bucket {
    uint64_t packets_paid;
    uint64_t connections_paid;
};

/* cffi: end */

#endif
