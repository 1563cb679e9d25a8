/* Every map of the packet programs, each with its purpose: the one list of them.
 *
 * Read twice: by the programs, which reach a map through EDGE_MAP or EDGE_VALUE, and, with
 * EDGE_DECLARE_MAPS, by the compiler child, which lets bcc declare them so that their shape and
 * BTF can be read back. bcc never makes the maps that are used: edge/xdp/object.py does.
 */
#ifndef EDGE_MAPS_H
#define EDGE_MAPS_H

#include "edge_abi.h"

#define EDGE_MMAPABLE (1U << 10)
#define EDGE_NO_PREALLOC (1U << 0)

#define EDGE_INLINE static inline __attribute__((always_inline))

#ifdef EDGE_DECLARE_MAPS
/* The commit word: which generation a packet sees. */
BPF_F_TABLE("array", uint32_t, struct edge_control, edge_control, 1, EDGE_MMAPABLE);
/* Stamps of those who serve; read by the dead-man check. */
BPF_F_TABLE("array", uint32_t, struct edge_heartbeat, edge_heartbeat, 1, EDGE_MMAPABLE);
/* What policies say, by generation. */
BPF_F_TABLE("array", uint32_t, struct edge_settings, edge_settings, 2, 0);
/* Served addresses and ports; generation in the key. */
BPF_F_TABLE("hash", struct edge_vip_key, struct edge_vip, edge_vips, 2 * EDGE_VIPS_MAX, 0);
/* One bit for each /24 that any rule touches, 64 a word; second half: generation 1. */
BPF_F_TABLE("array", uint32_t, uint64_t, edge_front_v4, 2 * EDGE_FRONT_V4_WORDS, EDGE_MMAPABLE);
/* Bloom filter over the /48s of exact rules, 64 bits a word; second half: generation 1. */
BPF_F_TABLE("array", uint32_t, uint64_t, edge_front_v6, 2 * EDGE_FRONT_V6_WORDS, EDGE_MMAPABLE);
/* Rules by exact prefix; generation in the key. */
BPF_F_TABLE("hash", struct edge_source_key, struct edge_source_rule, edge_sources,
            2 * EDGE_SOURCE_RULES_MAX, EDGE_NO_PREALLOC);
/* Rules with short prefixes only: a trie of a million would itself be the attack. */
BPF_F_TABLE("lpm_trie", struct edge_short_key, struct edge_source_rule, edge_short,
            2 * EDGE_SHORT_RULES_MAX, EDGE_NO_PREALLOC);
/* State of each source; shared by the generations, so that a publish refills nobody. */
BPF_F_TABLE("lru_hash", struct edge_bucket_key, struct edge_bucket, edge_buckets, EDGE_BUCKETS, 0);
/* Packets and bytes by enum edge_drop. */
BPF_F_TABLE("percpu_array", uint32_t, struct edge_count, edge_counts, EDGE_REASON_COUNT, 0);
#else
/* The compiler child passes -DEDGE_FD_name=number; the loader puts the real descriptor there. */
#define EDGE_MAP(name) ((void *)bpf_pseudo_fd(1, EDGE_FD_##name))
/* The only element of an array, without a lookup. */
#define EDGE_VALUE(name) ((volatile struct name *)bpf_pseudo_fd(2, EDGE_FD_##name))
#endif

#endif
