/* From bytes to addresses, ports and what is wrong with them. Called once a packet by xdp_edge.c.
 * Knows no map and no policy; never reads past the packet's linear part, where headers stand.
 *
 * What is understood: Ethernet, up to two VLAN tags, IPv4 with options, IPv6 with up to
 * EDGE_EXTENSIONS_MAX extension headers, TCP, UDP. Anything else is "not ours" and passes.
 * Ports are read even from a malformed packet where they stand within its bytes, so that only
 * what is aimed at a VIP is dropped as malformed.
 */
#ifndef EDGE_PARSE_H
#define EDGE_PARSE_H

#include "maps.h"

#define EDGE_EXTENSIONS_MAX 6
#define EDGE_PROTOCOL_TCP 6
#define EDGE_PROTOCOL_UDP 17

/* What parse() found out; 0: a complete IP packet of another protocol. */
#define EDGE_PACKET_PORTS 1     /* `port_be` was read */
#define EDGE_PACKET_SYN 2       /* asks for a connection */
#define EDGE_PACKET_MALFORMED 4 /* cut short, or contradicts itself */
#define EDGE_PACKET_FRAGMENT 8  /* first fragment: more will follow */
#define EDGE_PACKET_LATER 16    /* later fragment: has no ports */

struct edge_packet {
    uint64_t source[2]; /* network order, IPv4 as ::ffff:a.b.c.d */
    uint64_t target[2];
    uint16_t port_be;
    uint8_t protocol; /* of the last header; 0 unknown */
    uint8_t family;   /* 4 or 6 */
    uint32_t flags;
};

struct edge_ethernet {
    uint8_t target[6], source[6];
    uint16_t type_be;
};

struct edge_vlan {
    uint16_t tag_be, type_be;
};

struct edge_ipv4 {
    uint8_t version_words, service;
    uint16_t total_be, id_be, fragment_be;
    uint8_t lifetime, protocol;
    uint16_t checksum;
    uint32_t source_be, target_be;
};

struct edge_ipv6 {
    uint32_t version_be;
    uint16_t payload_be;
    uint8_t next, hops;
    uint32_t source_be[4], target_be[4];
};

struct edge_extension {
    uint8_t next, units; /* length: (units + 1) * 8 */
    uint16_t offset_be;  /* of a fragment header */
    uint32_t rest;
};

struct edge_tcp {
    uint16_t source_be, target_be;
    uint32_t sequence, acknowledged;
    uint8_t words, flags;
    uint16_t window, checksum, urgent;
};

struct edge_udp {
    uint16_t source_be, target_be, length_be, checksum;
};

#define EDGE_BE16(x) ((uint16_t)__builtin_bswap16(x))

/* TCP or UDP from `at`; `left`: bytes of payload that the IP header promises. */
EDGE_INLINE void parse_transport(struct edge_packet *p, uint8_t *at, uint8_t *end, uint32_t left)
{
    if (p->protocol != EDGE_PROTOCOL_TCP && p->protocol != EDGE_PROTOCOL_UDP)
        return;
    if (at + 4 > end || left < 4) {
        p->flags |= EDGE_PACKET_MALFORMED;
        return;
    }
    p->port_be = *(uint16_t *)(at + 2);
    p->flags |= EDGE_PACKET_PORTS;
    if (p->flags & (EDGE_PACKET_FRAGMENT | EDGE_PACKET_MALFORMED))
        return;
    if (p->protocol == EDGE_PROTOCOL_UDP) {
        struct edge_udp *udp = (void *)at;
        if ((uint8_t *)(udp + 1) > end || left < sizeof(*udp)) {
            p->flags |= EDGE_PACKET_MALFORMED;
            return;
        }
        uint16_t length = EDGE_BE16(udp->length_be);
        if (length < sizeof(*udp) || length > left)
            p->flags |= EDGE_PACKET_MALFORMED;
        return;
    }
    struct edge_tcp *tcp = (void *)at;
    if ((uint8_t *)(tcp + 1) > end || left < sizeof(*tcp)) {
        p->flags |= EDGE_PACKET_MALFORMED;
        return;
    }
    uint32_t bytes = (uint32_t)(tcp->words >> 4) * 4;
    uint8_t flags = tcp->flags & 0x17; /* ACK, RST, SYN, FIN */
    /* No flag at all, or SYN together with FIN or RST: no TCP sends these (RFC 9293 3.10.7). */
    if (bytes < sizeof(*tcp) || bytes > left || !tcp->source_be || !flags ||
        ((flags & 2) && (flags & 5)))
        p->flags |= EDGE_PACKET_MALFORMED;
    else if ((flags & 0x12) == 2)
        p->flags |= EDGE_PACKET_SYN;
}

/* 0: not an IP packet whose addresses can be read. `bytes`: of the whole frame from `at` on. */
EDGE_INLINE int parse_ipv4(struct edge_packet *p, uint8_t *at, uint8_t *end, uint32_t bytes)
{
    struct edge_ipv4 *ip = (void *)at;
    if ((uint8_t *)(ip + 1) > end || ip->version_words >> 4 != 4)
        return 0;
    p->family = 4;
    p->source[0] = 0;
    p->target[0] = 0;
    ((uint32_t *)&p->source[1])[0] = 0xffff0000U;
    ((uint32_t *)&p->source[1])[1] = ip->source_be;
    ((uint32_t *)&p->target[1])[0] = 0xffff0000U;
    ((uint32_t *)&p->target[1])[1] = ip->target_be;
    p->protocol = ip->protocol;
    uint32_t head = (uint32_t)(ip->version_words & 15) * 4;
    uint32_t total = EDGE_BE16(ip->total_be);
    if (head < sizeof(*ip)) {
        p->flags |= EDGE_PACKET_MALFORMED;
        return 1;
    }
    if (total < head || total > bytes)
        p->flags |= EDGE_PACKET_MALFORMED;
    uint16_t fragment = EDGE_BE16(ip->fragment_be);
    if (fragment & 0x1fff) {
        p->flags |= EDGE_PACKET_LATER;
        return 1;
    }
    if (fragment & 0x2000)
        p->flags |= EDGE_PACKET_FRAGMENT;
    parse_transport(p, at + head, end, total < head ? 0 : total - head);
    return 1;
}

EDGE_INLINE int parse_ipv6(struct edge_packet *p, uint8_t *at, uint8_t *end, uint32_t bytes)
{
    struct edge_ipv6 *ip = (void *)at;
    if ((uint8_t *)(ip + 1) > end || at[0] >> 4 != 6)
        return 0;
    p->family = 6;
    __builtin_memcpy(p->source, ip->source_be, 16);
    __builtin_memcpy(p->target, ip->target_be, 16);
    uint32_t left = EDGE_BE16(ip->payload_be);
    if (left + sizeof(*ip) > bytes)
        p->flags |= EDGE_PACKET_MALFORMED;
    uint8_t next = ip->next;
    at += sizeof(*ip);
    for (int i = 0; i < EDGE_EXTENSIONS_MAX; i++) {
        /* hop-by-hop, routing, fragment, authentication, destination */
        if (next != 0 && next != 43 && next != 44 && next != 51 && next != 60) {
            p->protocol = next;
            parse_transport(p, at, end, left);
            return 1;
        }
        struct edge_extension *extension = (void *)at;
        if ((uint8_t *)(extension + 1) > end) {
            p->flags |= EDGE_PACKET_MALFORMED;
            return 1;
        }
        uint32_t step = ((uint32_t)extension->units + 1) * 8;
        if (next == 51)
            step = ((uint32_t)extension->units + 2) * 4;
        if (next == 44) {
            step = sizeof(*extension);
            uint16_t offset = EDGE_BE16(extension->offset_be);
            if (offset & 0xfff8) {
                p->protocol = extension->next;
                p->flags |= EDGE_PACKET_LATER;
                return 1;
            }
            if (offset & 1)
                p->flags |= EDGE_PACKET_FRAGMENT;
        }
        if (step > left) {
            p->flags |= EDGE_PACKET_MALFORMED;
            return 1;
        }
        next = extension->next;
        left -= step;
        at += step;
    }
    p->flags |= EDGE_PACKET_MALFORMED;
    return 1;
}

/* 1: addresses were read; 0: not ours. `p` must be zero; `bytes`: of the whole frame. */
EDGE_INLINE int parse(struct edge_packet *p, uint8_t *at, uint8_t *end, uint32_t bytes)
{
    struct edge_ethernet *ethernet = (void *)at;
    if ((uint8_t *)(ethernet + 1) > end)
        return 0;
    uint16_t type = ethernet->type_be;
    at += sizeof(*ethernet);
    bytes -= sizeof(*ethernet);
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (type != EDGE_BE16(0x8100) && type != EDGE_BE16(0x88a8))
            break;
        struct edge_vlan *vlan = (void *)at;
        if ((uint8_t *)(vlan + 1) > end)
            return 0;
        type = vlan->type_be;
        at += sizeof(*vlan);
        bytes -= sizeof(*vlan);
    }
    if (type == EDGE_BE16(0x0800))
        return parse_ipv4(p, at, end, bytes);
    if (type == EDGE_BE16(0x86dd))
        return parse_ipv6(p, at, end, bytes);
    return 0;
}

#endif
