/* The head of an answer as HTTP/1 text. Called by h1_downstream.c for every head that it sends.
 *
 * Leaves out what is hop by hop, adds framing, Connection, and Date and Server where they are
 * missing; decides nothing. */
#include "proxy/h1_stream.h"
#include "proxy/proxy.h"

bool h1_answer_write(struct h1_sender *sender, const struct exchange *exchange, bool interim,
                     bool last)
{
    const struct h1_head *head = exchange->response;
    const struct proxy *proxy = exchange->proxy;
    bool dated = false, named = false;
    struct slice upgrade = {0, 0};
    size_t bytes = head->reason.length + 192;
    for (uint32_t i = 0; i < head->field_count; i++) {
        bytes += head->field[i].name.length + head->field[i].value.length + 4;
        if (head->field[i].id == FIELD_DATE)
            dated = true;
        else if (head->field[i].id == FIELD_SERVER)
            named = true;
        else if (head->field[i].id == FIELD_UPGRADE)
            upgrade = head->field[i].value;
    }
    struct h1_writer writer;
    if (!h1_sender_open(sender, &writer, bytes + upgrade.length))
        return false;
    h1_put_status_line(&writer, head->status, head->reason);
    h1_put_fields(&writer, head, 0);
    if (!interim) {
        /* RFC 9110 §6.6.1: a recipient with a clock adds what is missing. */
        if (!dated)
            h1_put_field(&writer, SLICE("date"), (struct slice){proxy->date, H1_DATE_BYTES});
        if (!named) /* the conformance suite wants one, and its own server sends none */
            h1_put_text(&writer, "server: xdp-edge\r\n");
        if (sender->framing == BODY_CHUNKED)
            h1_put_text(&writer, H1_CHUNKED_FIELD);
        if (exchange->tunnel) {
            h1_put_text(&writer, "connection: upgrade\r\n");
            h1_put_field(&writer, SLICE("upgrade"), upgrade);
        } else if (last) {
            h1_put_text(&writer, H1_CLOSE_FIELD);
        } else if (exchange->request && exchange->request->minor == 0) {
            h1_put_text(&writer, "connection: keep-alive\r\n");
        }
    }
    h1_put_end(&writer);
    if (!writer.full)
        h1_sender_commit(sender, &writer);
    return !writer.full;
}
