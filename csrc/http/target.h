/* The request target and the authority (RFC 9112 §3.2, RFC 3986).
 *
 * h1_parse.c asks for every request; match/ may ask whether a host or a path that a person typed
 * would be let in. Nothing is decoded or normalised here: what was checked is what is forwarded. */
#ifndef EDGE_HTTP_TARGET_H
#define EDGE_HTTP_TARGET_H

#include "base/slice.h"
#include "http/h1_parse.h"

/* Splits head->target into path and query, and of an absolute form head->authority (left alone
 * otherwise). method_id decides whether "*" may stand. 0 or H1_ERR_SYNTAX or H1_ERR_HOST. */
int target_split(struct h1_head *head);

/* host [":" port] as a Host field may carry it: a name of letters, digits, '-', '_' and '.', an
 * IPv4 address, or an IPv6 address in brackets. User information, percent escapes and all else
 * that RFC 3986 would let into a reg-name are refused. */
bool target_authority_valid(struct slice authority);

/* A path that begins with '/': visible ASCII without '#', '\', a broken escape or "%00". */
bool target_path_valid(struct slice path);

#endif
