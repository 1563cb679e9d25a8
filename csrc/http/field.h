/* Header fields: what a name may be made of, which of them the data plane knows, which stay here.
 *
 * h1_parse.c looks every name up; framing.c walks lists and marks what Connection names. Field
 * names compare without regard to case (RFC 9110 §5.1), ASCII only. Never allocates. */
#ifndef EDGE_HTTP_FIELD_H
#define EDGE_HTTP_FIELD_H

#include "base/slice.h"
#include "http/h1_parse.h"

/* token = 1*tchar (RFC 9110 §5.6.2): not 0 for each tchar. */
#define FIELD_UNDERSCORE 2
extern const uint8_t field_token_table[256];

static inline bool field_is_token_char(char c)
{
    return field_token_table[(uint8_t)c] != 0;
}

static inline bool field_is_blank(char c)
{
    return c == ' ' || c == '\t';
}

bool field_is_token(struct slice text);

/* A perfect hash of the names that we know, over the first character and the fourth from the end;
 * test_field.c looks every one of them up. */
struct field_known {
    char text[18];
    uint8_t length; /* 0: no name hashes here */
    uint8_t id;
};
extern const struct field_known field_known_table[64];

static inline uint64_t field_load_lower(const char *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof(word));
    return word | 0x2020202020202020u; /* of token characters only letters become others' */
}

/* enum field_id of a name that is a token; FIELD_OTHER when it is none that we know. */
static inline uint8_t field_lookup(const char *name, size_t length)
{
    unsigned first = (uint8_t)name[0] | 0x20u;
    unsigned fourth = (uint8_t)name[length > 3 ? length - 4 : 0] | 0x20u;
    const struct field_known *known = &field_known_table[(first * 21 + fourth) % 64];
    if (known->length != length)
        return FIELD_OTHER;
    if (length < 8) {
        for (size_t i = 0; i < length; i++)
            if (((uint8_t)name[i] | 0x20u) != (uint8_t)known->text[i])
                return FIELD_OTHER;
        return known->id;
    }
    size_t middle = length / 2 - 4;
    uint64_t differ = field_load_lower(name) ^ field_load_lower(known->text);
    differ |= field_load_lower(name + middle) ^ field_load_lower(known->text + middle);
    differ |= field_load_lower(name + length - 8) ^ field_load_lower(known->text + length - 8);
    return differ == 0 ? known->id : (uint8_t)FIELD_OTHER;
}

/* Is this name, each '_' read as '-', one that we know? CGI, WSGI and their like make one name
 * of both spellings, so a client could speak in our name with X_Forwarded_For. */
bool field_is_alias(const char *name, size_t length);

/* Fields of RFC 9110 §7.6.1 that are never passed on. Trailer is there because trailers are not
 * passed on either. */
#define FIELD_HOP_BY_HOP                                                                           \
    (1u << FIELD_CONNECTION | 1u << FIELD_KEEP_ALIVE | 1u << FIELD_PROXY_CONNECTION |              \
     1u << FIELD_TE | 1u << FIELD_TRAILER | 1u << FIELD_TRANSFER_ENCODING | 1u << FIELD_UPGRADE)

/* Which known fields a head has; filled by the parser. */
struct field_seen {
    uint32_t once;           /* bit of each id that is there */
    uint32_t twice;          /* bit of each id that is there more than once */
    uint8_t at[FIELD_COUNT]; /* index of the last one */
};

/* Next element of a comma-separated list (RFC 9110 §5.6.1), without blanks around it; it may be
 * empty. false at the end. An empty text has one empty element. */
struct field_list {
    const char *at; /* NULL: at the end */
    const char *end;
};
void field_list_init(struct field_list *list, struct slice value);
bool field_list_next(struct field_list *list, struct slice *element);

/* Marks the fields called `option` as hop by hop. Host and Content-Length are not removable:
 * without them the message would be another one. */
void field_mark_option(struct h1_head *head, struct slice option);

#endif
