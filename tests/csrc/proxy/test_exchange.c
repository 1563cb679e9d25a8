/* The exchange without HTTP/1: a codec of the test runs two exchanges on one connection at once,
 * over an upstream codec that is a few functions.
 *
 * links: proxy/blocks.c proxy/respond.c proxy/synth.c proxy/tunnel.c proxy/forward.c
 *  policy/policy.c policy/delay.c upstream/balance_rr.c upstream/pool.c base/wheel.c base/arena.c
 *  http/h1_write.c */
#include "proxy/exchange.c"

#include "tap.h"

/* ---- what stands around it: one route for every path, one endpoint, a clock of ours -------------
 */

struct loop {
    uint64_t now_ns;
};
static struct loop clock_of_test = {.now_ns = 1000000000};
uint64_t loop_now_ns(const struct loop *loop)
{
    return loop->now_ns;
}

static struct edge_image_filter delay = {.kind = EDGE_FILTER_DELAY, .argument = 50};
static struct edge_image_route routes[2] = {{.slot = 0, .generation = 1, .action = 0},
                                            {.slot = 1, .generation = 1, .action = 1}};
static struct edge_image_action actions[2] = {{.reference_count = 1},
                                              {.reference_count = 1, .filter_count = 1}};
static struct edge_image_object object;
static struct edge_image_reference reference = {.upstream_slot = 0, .weight = 1};
static struct edge_image_endpoint endpoint = {.port = 80, .state = EDGE_ENDPOINT_READY};
static struct edge_image_upstream record = {.generation = 1, .endpoint_count = 1};
static struct snapshot_upstream upstream = {&record, &endpoint, "name"};
static struct snapshot_view view = {.upstream_slots = 1, .upstreams = &upstream};

int32_t match_listener(const struct image *image, uint32_t slot)
{
    (void)image, (void)slot;
    return 0;
}
int32_t match_route(const struct image *image, uint32_t listener,
                    const struct match_request *request)
{
    const struct slice path = request->path;
    (void)image, (void)listener;
    return path.length > 1 && path.at[1] == 'n' ? -1 : path.length > 1 && path.at[1] == 'd';
}
uint64_t proxy_random(struct proxy *proxy)
{
    return ++proxy->random[0];
}

/* ---- upstream codec: remembers who asks, answers when the test says so
 * ----------------------------- */

static struct exchange *asked[4];
static int asked_count, aborted_count;
static char request_text[64];

static void up_body(struct exchange *exchange, const struct exchange_piece *piece)
{
    (void)exchange;
    strncat(request_text, (const char *)piece->at, piece->length);
}
static void up_nothing(struct exchange *exchange)
{
    (void)exchange;
}
static void up_abort(struct exchange *exchange)
{
    (void)exchange;
    aborted_count++;
}
static const struct exchange_upstream_ops UP = {
    .body = up_body, .flush = up_nothing, .credit = up_nothing, .abort = up_abort};

bool h1_upstream_start(struct exchange *exchange, const struct snapshot_upstream *chosen,
                       const struct edge_image_endpoint *at)
{
    (void)chosen, (void)at;
    exchange->up = &UP;
    asked[asked_count++] = exchange;
    exchange_request_credit(exchange);
    return true;
}

static void answer_with(struct exchange *exchange, const char *text)
{
    static struct h1_head head;
    struct exchange_piece piece = {.at = (uint8_t *)text, .length = strlen(text), .end = true};
    head = (struct h1_head){
        .status = 200, .minor = 1, .body = BODY_LENGTH, .content_length = strlen(text)};
    exchange_response_head(exchange, &head);
    exchange_response_body(exchange, &piece);
    exchange_upstream_done(exchange);
    exchange_response_flush(exchange);
}

/* ---- downstream codec: a connection with two streams, frames "N:status:body;"
 * ----------------------- */

struct stream {
    struct exchange exchange;
    struct h1_head head;
    const char *body;
};
static struct stream streams[2];
static char wire[256];

static void down_head(struct exchange *exchange)
{
    size_t at = strlen(wire);
    snprintf(wire + at, sizeof wire - at, "%d:%u:", (int)((struct stream *)exchange - streams),
             exchange->response->status);
}
static void down_body(struct exchange *exchange, const struct exchange_piece *piece)
{
    (void)exchange;
    strncat(wire, (const char *)piece->at, piece->length);
}
static void down_flush(struct exchange *exchange)
{
    if (!exchange->response_done || exchange->finished)
        return;
    strcat(wire, ";");
    exchange_response_sent(exchange);
}
static void down_abort(struct exchange *exchange)
{
    (void)exchange;
    strcat(wire, "!");
}
static void down_credit(struct exchange *exchange)
{
    struct stream *stream = (struct stream *)exchange;
    struct exchange_piece piece = {
        .at = (uint8_t *)stream->body, .length = strlen(stream->body), .end = true};
    exchange_request_body(exchange, &piece);
}
static bool down_rewind(struct exchange *exchange)
{
    (void)exchange;
    return true;
}
static const struct exchange_downstream_ops DOWN = {.interim = up_nothing,
                                                    .head = down_head,
                                                    .body = down_body,
                                                    .flush = down_flush,
                                                    .abort = down_abort,
                                                    .credit = down_credit,
                                                    .rewind = down_rewind};

static struct exchange_client client = {.text = "192.0.2.1", .text_length = 9};
static struct edge_lane lane;
static struct edge_route_cell route_cells[2];
static struct edge_upstream_cell upstream_cells[1];
static struct proxy proxy;

static struct exchange *open_stream(int number, const char *path, const char *body)
{
    struct stream *stream = &streams[number];
    stream->body = body;
    stream->head = (struct h1_head){.method = SLICE("POST"),
                                    .method_id = METHOD_POST,
                                    .target = {path, strlen(path)},
                                    .path = {path, strlen(path)},
                                    .authority = SLICE("a.test"),
                                    .minor = 1,
                                    .body = BODY_LENGTH,
                                    .content_length = strlen(body)};
    exchange_init(&stream->exchange, &proxy, &DOWN, &client);
    exchange_begin(&stream->exchange, &stream->head);
    return &stream->exchange;
}

static bool balanced(void)
{
    uint64_t ended = 0;
    for (int i = 0; i < EDGE_OUTCOME_COUNT; i++)
        ended += lane.outcomes[i];
    return lane.requests == ended + lane.in_flight;
}

static void reset(void)
{
    wire[0] = request_text[0] = 0;
    asked_count = aborted_count = 0;
}

static void test_two_at_once(void)
{
    reset();
    struct exchange *first = open_stream(0, "/", "one");
    struct exchange *second = open_stream(1, "/", "two");
    IS(lane.in_flight, 2, "two exchanges run on one connection");
    IS_TEXT(request_text, strlen(request_text), "onetwo", "both bodies reached the endpoint");
    answer_with(second, "B");
    answer_with(first, "A");
    IS_TEXT(wire, strlen(wire), "1:200:B;0:200:A;", "answers come in the order of the endpoint");
    OK(balanced() && lane.in_flight == 0, "requests are outcomes and in flight");
    IS(route_cells[0].requests, 2, "the route counts both");
    IS(upstream_cells[0].in_flight, 0, "nothing is in flight upstream");
}

static void test_delay(void)
{
    reset();
    struct exchange *slow = open_stream(0, "/d", "late");
    struct exchange *quick = open_stream(1, "/", "soon");
    OK(asked_count == 1 && asked[0] == quick, "a paused exchange does not hold up its neighbour");
    wheel_advance(&proxy.wheel, proxy.wheel.now_ms + 49);
    IS(asked_count, 1, "it is not resumed early");
    wheel_advance(&proxy.wheel, proxy.wheel.now_ms + 2);
    OK(asked_count == 2 && asked[1] == slow, "the timer resumes it");
    answer_with(slow, "S");
    answer_with(quick, "Q");
    IS_TEXT(wire, strlen(wire), "0:200:S;1:200:Q;", "both are answered");
}

static void test_failures(void)
{
    struct exchange_failure reset_failure = {
        .kind = FAILURE_RESET, .side = SIDE_UPSTREAM, .retryable = 1};
    reset();
    open_stream(0, "/none", "");
    OK(strncmp(wire, "0:404:", 6) == 0, "no route is 404");
    reset();
    struct exchange *exchange = open_stream(0, "/", "again");
    exchange_upstream_failed(exchange, reset_failure);
    IS(asked_count, 2, "what is retryable is tried again");
    IS_TEXT(request_text, strlen(request_text), "againagain", "with its whole body");
    reset_failure.retryable = 0;
    exchange_upstream_failed(exchange, reset_failure);
    OK(strncmp(wire, "0:502:", 6) == 0, "what is not becomes 502");
    reset();
    exchange = open_stream(0, "/d", "x");
    exchange_downstream_failed(exchange, FAILURE_RESET);
    wheel_advance(&proxy.wheel, proxy.wheel.now_ms + 100);
    IS(asked_count, 0, "a client that left is not resumed");
    exchange = open_stream(0, "/", "x");
    exchange_downstream_failed(exchange, FAILURE_RESET);
    IS(aborted_count, 1, "its endpoint is told");
    OK(balanced() && lane.in_flight == 0, "every exchange has one outcome");
}

/* Slots are given away while exchanges of their last owner still run. */
static void test_slots_with_a_new_owner(void)
{
    reset();
    struct exchange *late = open_stream(0, "/", "old");
    record.generation = routes[0].generation = 2;
    answer_with(open_stream(1, "/", "new"), "N");
    struct exchange *present = open_stream(1, "/", "new");
    answer_with(late, "L");
    IS(upstream_cells[0].generation, 2, "a late exchange does not take an upstream's cell back");
    IS(upstream_cells[0].requests, 2, "nor its counts");
    IS(upstream_cells[0].in_flight, 1, "nor what is in flight");
    IS(route_cells[0].generation, 2, "nor the route's cell");
    IS(route_cells[0].requests, 1, "nor its counts");
    answer_with(present, "P");
    IS(upstream_cells[0].in_flight, 0, "what is present ends as ever");
    record.generation = routes[0].generation = 1;
}

int main(void)
{
    view.image.routes = routes;
    view.image.actions = actions;
    view.image.objects = &object;
    view.image.filters = &delay;
    view.image.references = &reference;
    view.image.text = "";
    proxy.loop = &clock_of_test;
    proxy.view = &view;
    proxy.lane = &lane;
    proxy.route_cells = route_cells;
    proxy.upstream_cells = upstream_cells;
    wheel_init(&proxy.wheel, 1000);
    balance_init(&proxy.balance, 1);
    test_two_at_once();
    test_delay();
    test_failures();
    test_slots_with_a_new_owner();
    balance_release(&proxy.balance);
    arena_cache_release(&proxy.arenas);
    blocks_release(&proxy.blocks);
    return tap_done();
}
