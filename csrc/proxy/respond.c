/* Answers of our own: errors, redirects, what a filter decided. Called by proxy/exchange.c.
 *
 * Made as an ordinary response head with a small body of plain text, so that every downstream
 * codec can send it. Never chooses a status. */
#include "proxy/proxy.h"

static void add(struct h1_head *head, struct slice name, struct slice value, uint8_t id)
{
    head->field[head->field_count++] = (struct h1_field){.name = name, .value = value, .id = id};
}

void respond(struct exchange *exchange, uint16_t status)
{
    struct h1_head *head = &exchange->proxy->scratch;
    struct slice reason = h1_reason(status);
    char text[96], number[24];
    struct h1_writer writer, digits;

    h1_writer_init(&writer, text, sizeof text);
    h1_put_number(&writer, status);
    h1_put_text(&writer, " ");
    h1_put_slice(&writer, reason);
    h1_put_text(&writer, "\n");
    size_t length = h1_writer_length(&writer);
    h1_writer_init(&digits, number, sizeof number);
    h1_put_number(&digits, length);

    memset(head, 0, offsetof(struct h1_head, field));
    head->status = status;
    head->reason = reason;
    head->minor = 1;
    head->keep_alive = 1;
    head->content_length = length;
    bool headless = exchange->request && exchange->request->method_id == METHOD_HEAD;
    head->body = headless ? BODY_NONE : BODY_LENGTH;
    add(head, SLICE("content-type"), SLICE("text/plain; charset=utf-8"), FIELD_OTHER);
    add(head, SLICE("content-length"), (struct slice){number, h1_writer_length(&digits)},
        FIELD_CONTENT_LENGTH);
    if (exchange->location.length > 0)
        add(head, SLICE("location"), exchange->location, FIELD_OTHER);

    exchange->response = head;
    exchange->status = status;
    exchange->response_begun = 1;
    exchange->body_expected = !headless;
    exchange->response_done = headless;
    exchange->down->head(exchange);
    exchange->response = 0;
    if (!headless) {
        struct exchange_piece piece = {.at = (uint8_t *)text, .length = length, .end = true};
        exchange->response_bytes = length;
        exchange->response_done = 1;
        exchange->down->body(exchange, &piece);
    }
    exchange->down->flush(exchange);
}
