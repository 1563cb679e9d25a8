/* Is this packet for us? Called by xdp_edge.c right after parsing; only packets to a VIP (or, with
 * scope: node, to an address of this node) are judged at all. Reads edge_vips, writes nothing.
 */
#ifndef EDGE_VIP_H
#define EDGE_VIP_H

#include "parse.h"

enum edge_place {
    EDGE_PLACE_OTHER = 0, /* forwarded, or to a port that nobody named */
    EDGE_PLACE_VIP = 1,
    EDGE_PLACE_HIDDEN = 2, /* malformed before its port, to an address that has VIPs */
    EDGE_PLACE_NODE = 3,   /* scope: node, and to an address of this node */
};

EDGE_INLINE enum edge_place vip_find(const struct edge_packet *p, uint32_t generation,
                                     uint32_t settings)
{
    struct edge_vip_key key = {.generation = generation};
    __builtin_memcpy(key.address, p->target, 16);
    if (p->flags & EDGE_PACKET_PORTS) {
        key.port_be = p->port_be;
        key.protocol = p->protocol;
        if (bpf_map_lookup_elem(EDGE_MAP(edge_vips), &key))
            return EDGE_PLACE_VIP;
    }
    int transport =
        !p->protocol || p->protocol == EDGE_PROTOCOL_TCP || p->protocol == EDGE_PROTOCOL_UDP;
    int hidden = transport && (p->flags & EDGE_PACKET_MALFORMED) && !(p->flags & EDGE_PACKET_PORTS);
    if (!hidden && !(settings & EDGE_SETTING_NODE))
        return EDGE_PLACE_OTHER;
    key.port_be = 0;
    key.protocol = 0;
    struct edge_vip *vip = bpf_map_lookup_elem(EDGE_MAP(edge_vips), &key);
    if (!vip)
        return EDGE_PLACE_OTHER;
    if (settings & EDGE_SETTING_NODE)
        return EDGE_PLACE_NODE;
    return vip->flags & EDGE_VIP_PORT ? EDGE_PLACE_HIDDEN : EDGE_PLACE_OTHER;
}

#endif
