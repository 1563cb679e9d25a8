/* Which rule names this source? Called by xdp_edge.c for packets to a VIP. Reads edge_front_*,
 * edge_sources and edge_short of one generation, writes nothing.
 *
 * Most sources are named by no rule, and an attacker chooses random ones. So one bit is read first:
 * over every /24 that a rule touches (IPv4), or a Bloom filter over the /48s of exact rules
 * (IPv6). Then one exact hash for each prefix length in use, longest first; the trie, whose cost
 * grows with its size, comes last and holds only short prefixes. edge/xdp/rules.py writes the same
 * structures; rules_hash here and bloom_positions there must agree (tests/bpf compares them).
 */
#ifndef EDGE_SOURCE_RULES_H
#define EDGE_SOURCE_RULES_H

#include "parse.h"

EDGE_INLINE uint64_t rules_hash(uint64_t value)
{
    value *= 0x9e3779b97f4a7c15ULL;
    value ^= value >> 32;
    value *= 0xd6e8feb86659fd93ULL;
    return value ^ (value >> 29);
}

EDGE_INLINE int rules_bit(void *map, uint32_t first, uint32_t position)
{
    uint32_t index = first + (position >> 6);
    uint64_t *word = bpf_map_lookup_elem(map, &index);
    return word && (*word >> (position & 63) & 1);
}

EDGE_INLINE uint32_t rules_short(const struct edge_packet *p, uint32_t generation)
{
    struct edge_short_key key = {.prefix_bits = 32 + 128, .generation = generation};
    key.family = p->family;
    if (p->family == 4) {
        key.prefix_bits = 32 + 32;
        *(uint32_t *)key.address = ((const uint32_t *)&p->source[1])[1];
    } else {
        __builtin_memcpy(key.address, p->source, 16);
    }
    struct edge_source_rule *rule = bpf_map_lookup_elem(EDGE_MAP(edge_short), &key);
    return rule ? rule->flags : 0;
}

EDGE_INLINE uint32_t rules_v4(const struct edge_packet *p, uint32_t generation,
                              const struct edge_settings *settings)
{
    uint32_t address = __builtin_bswap32(((const uint32_t *)&p->source[1])[1]);
    if (!rules_bit(EDGE_MAP(edge_front_v4), generation * EDGE_FRONT_V4_WORDS, address >> 8))
        return 0;
    struct edge_source_key key = {.family = 4, .generation = generation};
    key.address[10] = 0xff;
    key.address[11] = 0xff;
    for (int i = 0; i < EDGE_LENGTHS_V4; i++) {
        uint32_t length = settings->lengths_v4[i];
        if (!length)
            break;
        key.prefix = length;
        *(uint32_t *)(key.address + 12) = __builtin_bswap32(address & ~0U << ((32 - length) & 31));
        struct edge_source_rule *rule = bpf_map_lookup_elem(EDGE_MAP(edge_sources), &key);
        if (rule)
            return rule->flags;
    }
    return settings->flags & EDGE_SETTING_SHORT_V4 ? rules_short(p, generation) : 0;
}

EDGE_INLINE uint32_t rules_v6(const struct edge_packet *p, uint32_t generation,
                              const struct edge_settings *settings)
{
    uint64_t high = __builtin_bswap64(p->source[0]), low = __builtin_bswap64(p->source[1]);
    uint64_t hash = rules_hash(high >> 16);
    uint32_t first = generation * EDGE_FRONT_V6_WORDS;
    void *front = EDGE_MAP(edge_front_v6);
    if (rules_bit(front, first, hash & 0xfffff) && rules_bit(front, first, hash >> 20 & 0xfffff) &&
        rules_bit(front, first, hash >> 40 & 0xfffff)) {
        struct edge_source_key key = {.family = 6, .generation = generation};
        for (int i = 0; i < EDGE_LENGTHS_V6; i++) {
            uint32_t length = settings->lengths_v6[i];
            uint64_t masked[2] = {high, 0};
            if (!length)
                break;
            key.prefix = length;
            if (length <= 64)
                masked[0] &= ~0ULL << ((64 - length) & 63);
            else
                masked[1] = low & ~0ULL << ((128 - length) & 63);
            masked[0] = __builtin_bswap64(masked[0]);
            masked[1] = __builtin_bswap64(masked[1]);
            __builtin_memcpy(key.address, masked, 16);
            struct edge_source_rule *rule = bpf_map_lookup_elem(EDGE_MAP(edge_sources), &key);
            if (rule)
                return rule->flags;
        }
    }
    return settings->flags & EDGE_SETTING_SHORT_V6 ? rules_short(p, generation) : 0;
}

/* EDGE_RULE_ALLOW, EDGE_RULE_DENY or 0; the node's bits are moved to where the others stand. */
EDGE_INLINE uint32_t rules_find(const struct edge_packet *p, uint32_t generation,
                                const struct edge_settings *settings, int node)
{
    uint32_t flags = 0;
    if (p->family == 4 && settings->flags & EDGE_SETTING_RULES_V4)
        flags = rules_v4(p, generation, settings);
    else if (p->family == 6 && settings->flags & EDGE_SETTING_RULES_V6)
        flags = rules_v6(p, generation, settings);
    if (node)
        flags >>= 2;
    return flags & EDGE_RULE_ALLOW ? EDGE_RULE_ALLOW : flags & EDGE_RULE_DENY;
}

#endif
