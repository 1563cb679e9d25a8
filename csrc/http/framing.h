/* Where a message ends, and whether the connection lives on (RFC 9112 §6 and §9.3).
 *
 * h1_parse.c calls one of these once all fields are there. They read Connection, Content-Length,
 * Transfer-Encoding, Upgrade, TE and Expect, and decide; they never guess. */
#ifndef EDGE_HTTP_FRAMING_H
#define EDGE_HTTP_FRAMING_H

#include "http/field.h"

/* Options that Connection may name in one head. Each costs a walk over all fields. */
#define FRAMING_OPTIONS_MAX 16

/* Fill body, content_length, keep_alive, expect_continue, upgrade and te_trailers, and mark the
 * fields that Connection names. 0 or H1_ERR_SYNTAX, H1_ERR_FRAMING, H1_ERR_CODING. */
int framing_request(struct h1_head *head, const struct field_seen *seen);
int framing_response(struct h1_head *head, const struct field_seen *seen,
                     uint8_t request_method_id);

#endif
