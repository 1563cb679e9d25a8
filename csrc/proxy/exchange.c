/* The way of a request: the phases below, in their order.
 *
 * Codecs call exchange_*() when something happened; each call runs the phases until one waits.
 * Never touches a socket and keeps no pointer into an image over a return to the loop. */
#include "proxy/proxy.h"

#include "match/matcher.h"
#include "policy/policy.h"
#include "proxy/counters.h"

enum step { STEP_NEXT, STEP_WAIT, STEP_ANSWER };

static enum step find_route(struct exchange *exchange);
static enum step filter_request(struct exchange *exchange);
static enum step edit_request(struct exchange *exchange);
static enum step choose_endpoint(struct exchange *exchange);
static enum step filter_response(struct exchange *exchange);
static enum step pass_response(struct exchange *exchange);
static bool keep_route(struct exchange *exchange);

enum exchange_phase {
    PHASE_ROUTE = 0,
    PHASE_FILTER_REQUEST,
    PHASE_EDIT,
    PHASE_ENDPOINT, /* waits for the head of an answer; a retry comes back here */
    PHASE_FILTER_RESPONSE,
    PHASE_RESPOND, /* waits until both bodies are through */
    PHASE_FINISHED
};

static enum step (*const PHASES[])(struct exchange *exchange) = {
    [PHASE_ROUTE] = find_route,
    [PHASE_FILTER_REQUEST] = filter_request,
    [PHASE_EDIT] = edit_request,
    [PHASE_ENDPOINT] = choose_endpoint,
    [PHASE_FILTER_RESPONSE] = filter_response,
    [PHASE_RESPOND] = pass_response,
};

static void drop_upstream(struct exchange *exchange)
{
    const struct exchange_upstream_ops *up = exchange->up;
    if (!up)
        return;
    exchange->up = 0;
    up->abort(exchange);
    counters_try_ended(exchange);
}

static void drop_held(struct exchange *exchange)
{
    if (exchange->has_held)
        blocks_give(&exchange->proxy->blocks, exchange->held.block);
    exchange->has_held = 0;
}

static void answer(struct exchange *exchange)
{
    drop_upstream(exchange);
    keep_route(exchange);
    uint16_t status = exchange->answer_status;
    if (exchange->filter_timer.armed)
        wheel_cancel(exchange->wheel, &exchange->filter_timer);
    exchange->paused = 0;
    exchange->phase = PHASE_RESPOND;
    exchange->local = 1;
    respond(exchange, status ? status : synth_status(&exchange->failure));
}

static void run(struct exchange *exchange)
{
    while (exchange->phase < PHASE_FINISHED) {
        enum step step = PHASES[exchange->phase](exchange);
        if (step == STEP_ANSWER)
            answer(exchange);
        if (step != STEP_NEXT)
            return;
        exchange->phase++;
    }
}

/* What was refused for want of something of ours. */
static void count_shortage(struct exchange *exchange, uint8_t kind)
{
    if (kind == FAILURE_MEMORY)
        COUNT(exchange->proxy->lane->memory_errors, 1);
    else if (kind == FAILURE_LIMIT)
        COUNT(exchange->proxy->lane->connect_limits, 1);
}

static enum step fail(struct exchange *exchange, uint8_t kind, uint8_t side)
{
    count_shortage(exchange, kind);
    exchange->failure = (struct exchange_failure){.kind = kind, .side = side};
    return STEP_ANSWER;
}

static void resume(struct exchange *exchange)
{
    exchange->paused = 0;
    run(exchange);
    if (exchange->phase == PHASE_RESPOND && !exchange->finished)
        exchange->down->flush(exchange);
}

void exchange_init(struct exchange *exchange, struct proxy *proxy,
                   const struct exchange_downstream_ops *ops, const struct exchange_client *client)
{
    /* The long arrays at the end are written before they are read. */
    memset(exchange, 0, offsetof(struct exchange, added));
    exchange->down = ops;
    exchange->proxy = proxy;
    exchange->wheel = &proxy->wheel;
    exchange->client = client;
    exchange->resume = resume;
    exchange->added_count = exchange->skip = 0;
    exchange->request_id = (struct slice){0, 0};
    exchange->filter_timer.armed = 0;
    exchange->upstream_ns = exchange->answered_ns = 0;
    exchange->request_bytes = exchange->response_bytes = 0;
    arena_init(&exchange->arena, &proxy->arenas);
    exchange->began_ns = loop_now_ns(proxy->loop);
    COUNT(proxy->lane->requests, 1);
    COUNT(proxy->lane->in_flight, 1);
}

void exchange_begin(struct exchange *exchange, const struct h1_head *request)
{
    exchange->request = request;
    exchange->request_done = request->body == BODY_NONE;
    run(exchange);
}

void exchange_begin_refused(struct exchange *exchange, uint8_t failure_kind)
{
    fail(exchange, failure_kind, SIDE_DOWNSTREAM);
    answer(exchange);
}

void exchange_refuse(struct exchange *exchange, uint8_t failure_kind)
{
    exchange_begin_refused(exchange, failure_kind);
}

/* ---- phases ------------------------------------------------------------------------------- */

/* What is remembered of a route: its filters and limits. Its name and its cell are asked for, and
 * read by keep_route(): with many routes they come from far. */
static void take_route(struct exchange *exchange, const struct image *image, uint32_t index)
{
    const struct edge_image_route *route = &image->routes[index];
    const struct edge_image_action *action = image_action(image, route);

    __builtin_prefetch(image_object(image, route));
    __builtin_prefetch(&exchange->proxy->route_cells[route->slot], 1);
    exchange->unnamed_route = index + 1;
    exchange->has_route = 1;
    exchange->route_slot = route->slot;
    exchange->route_generation = route->generation;
    exchange->body_bytes_max = action->body_bytes_max;
    for (uint32_t i = 0; i < action->filter_count && i < EXCHANGE_FILTERS_MAX; i++) {
        const struct edge_image_filter *filter = &image->filters[action->first_filter + i];
        exchange->filters[i] = (struct exchange_filter){.hooks = policy_hooks(filter->kind),
                                                        .argument = filter->argument};
        if (!exchange->filters[i].hooks)
            break;
        exchange->filter_count++;
    }
}

/* The rest of it, before the loop may bring another image. */
static bool keep_route(struct exchange *exchange)
{
    if (exchange->unnamed_route == 0)
        return true;
    const struct image *image = &exchange->proxy->view->image;
    const struct edge_image_object *object =
        image_object(image, &image->routes[exchange->unnamed_route - 1]);
    struct slice space = image_text(image, object->object_namespace);
    struct slice name = image_text(image, object->object_name);
    char *text = arena_alloc(&exchange->arena, space.length + name.length + 1);

    exchange->unnamed_route = 0;
    counters_claim_route(exchange);
    if (!text)
        return false;
    memcpy(text, space.at, space.length);
    text[space.length] = '/';
    memcpy(text + space.length + 1, name.at, name.length);
    exchange->route_name = (struct slice){text, space.length + 1 + name.length};
    return true;
}

/* 308 to the same place with https: the port of a Host field is that of plain HTTP. */
static enum step redirect_https(struct exchange *exchange)
{
    struct slice host = exchange->request->authority, path = exchange->request->path;
    struct slice query = exchange->request->query;
    for (size_t i = host.length; i > 0 && host.at[i - 1] != ']'; i--) {
        if (host.at[i - 1] == ':') {
            host.length = i - 1;
            break;
        }
    }
    struct h1_writer writer;
    size_t bytes = host.length + path.length + query.length + 16;
    char *text = arena_alloc(&exchange->arena, bytes);
    if (!text)
        return fail(exchange, FAILURE_MEMORY, SIDE_INTERNAL);
    h1_writer_init(&writer, text, bytes);
    h1_put_text(&writer, "https://");
    h1_put_slice(&writer, host);
    h1_put_slice(&writer, path);
    if (query.length > 0) {
        h1_put_text(&writer, "?");
        h1_put_slice(&writer, query);
    }
    exchange->location = (struct slice){text, h1_writer_length(&writer)};
    exchange->answer_status = 308;
    return STEP_ANSWER;
}

static enum step find_route(struct exchange *exchange)
{
    struct proxy *proxy = exchange->proxy;
    const struct snapshot_view *view = proxy->view;
    const struct h1_head *request = exchange->request;
    int32_t listener = view ? match_listener(&view->image, exchange->client->listener_slot) : -1;
    const struct match_request asked = {.host = request->authority,
                                        .path = request->path,
                                        .query = request->query,
                                        .method = request->method,
                                        .fields = request->field,
                                        .field_count = request->field_count};
    int32_t index = listener < 0 ? -1 : match_route(&view->image, (uint32_t)listener, &asked);
    if (index < 0)
        return fail(exchange, FAILURE_NO_ROUTE, SIDE_DOWNSTREAM);
    const struct edge_image_route *route = &view->image.routes[index];
    const struct edge_image_action *action = image_action(&view->image, route);
    take_route(exchange, &view->image, (uint32_t)index);
    if ((action->flags & EDGE_ROUTE_REDIRECT_HTTPS) && !exchange->client->tls)
        return redirect_https(exchange);
    if (exchange->body_bytes_max > 0 && request->body == BODY_LENGTH &&
        request->content_length > exchange->body_bytes_max)
        return fail(exchange, FAILURE_BODY_TOO_LARGE, SIDE_DOWNSTREAM);

    const struct edge_image_reference *references =
        &view->image.references[action->first_reference];
    int32_t chosen =
        balance_reference(&proxy->balance, route->slot, references, action->reference_count);
    if (chosen < 0)
        return fail(exchange, FAILURE_NO_ENDPOINT, SIDE_UPSTREAM);
    exchange->upstream_slot = references[chosen].upstream_slot;
    const struct snapshot_upstream *upstream = snapshot_upstream(view, exchange->upstream_slot);
    if (!upstream)
        return fail(exchange, FAILURE_NO_ENDPOINT, SIDE_UPSTREAM);
    exchange->upstream_generation = upstream->record->generation;
    struct slice name = {upstream->text + upstream->record->name.offset,
                         upstream->record->name.length};
    exchange->upstream_name = arena_copy(&exchange->arena, name);
    return STEP_NEXT;
}

static enum step filter_request(struct exchange *exchange)
{
    while (exchange->filter_next < exchange->filter_count) {
        struct exchange_filter *filter = &exchange->filters[exchange->filter_next++];
        if (!filter->hooks->request_head)
            continue;
        switch (filter->hooks->request_head(exchange, filter)) {
        case FILTER_CONTINUE:
            break;
        case FILTER_ANSWER:
            return STEP_ANSWER;
        case FILTER_PAUSE:
            if (!keep_route(exchange))
                return fail(exchange, FAILURE_MEMORY, SIDE_INTERNAL);
            exchange->paused = 1;
            return STEP_WAIT;
        default:
            return fail(exchange, FAILURE_FILTER, SIDE_INTERNAL);
        }
    }
    exchange->filter_next = 0;
    return STEP_NEXT;
}

static enum step edit_request(struct exchange *exchange)
{
    return forward_edit(exchange) ? STEP_NEXT : fail(exchange, FAILURE_MEMORY, SIDE_INTERNAL);
}

static bool tried(const void *owner, const struct edge_image_endpoint *endpoint)
{
    const struct exchange *exchange = owner;
    for (int i = 0; i < exchange->tries_count; i++)
        if (exchange->tries[i].port == endpoint->port &&
            memcmp(exchange->tries[i].address, endpoint->address, 16) == 0)
            return true;
    return false;
}

static enum step choose_endpoint(struct exchange *exchange)
{
    struct proxy *proxy = exchange->proxy;
    const struct snapshot_upstream *upstream =
        snapshot_upstream(proxy->view, exchange->upstream_slot);
    if (!upstream || upstream->record->generation != exchange->upstream_generation)
        return fail(exchange, FAILURE_NO_ENDPOINT, SIDE_UPSTREAM);
    while (exchange->tries_count < EXCHANGE_TRIES_MAX) {
        int32_t index = balance_endpoint(&proxy->balance, upstream,
                                         exchange->tries_count ? tried : 0, exchange);
        /* A broken kept connection says nothing about its endpoint: the only one is tried anew. */
        if (index < 0 && exchange->tries_count > 0 && exchange->failure.kind == FAILURE_RESET)
            index = balance_endpoint(&proxy->balance, upstream, 0, 0);
        if (index < 0)
            break;
        const struct edge_image_endpoint *endpoint = &upstream->endpoints[index];
        struct exchange_try *try = &exchange->tries[exchange->tries_count++];
        memcpy(try->address, endpoint->address, sizeof try->address);
        try->port = endpoint->port;
        try->status = 0;
        try->failure = FAILURE_NONE;
        exchange->upstream_ns = loop_now_ns(proxy->loop);
        counters_claim_upstream(exchange);
        struct edge_upstream_cell *cell = counters_upstream(exchange);
        COUNT(cell->requests, 1);
        COUNT(cell->in_flight, 1);
        if (exchange->tries_count > 1)
            COUNT(cell->retries, 1);
        if (h1_upstream_start(exchange, upstream, endpoint)) {
            keep_route(exchange); /* without memory for its name it goes without */
            return STEP_WAIT;
        }
        counters_try_ended(exchange);
        if (exchange->phase != PHASE_ENDPOINT)
            return STEP_WAIT;
        if (exchange->failure.side == SIDE_INTERNAL) { /* another endpoint would not help */
            count_shortage(exchange, exchange->failure.kind);
            return STEP_ANSWER;
        }
    }
    if (exchange->failure.kind == FAILURE_NONE)
        return fail(exchange, FAILURE_NO_ENDPOINT, SIDE_UPSTREAM);
    return STEP_ANSWER;
}

/* A paused answer must outlive the buffer that its head was parsed in. */
static bool keep_response(struct exchange *exchange)
{
    const struct h1_head *from = exchange->response;
    size_t bytes = offsetof(struct h1_head, field) + from->field_count * sizeof(struct h1_field);
    struct h1_head *copy = arena_alloc(&exchange->arena, bytes);
    if (!copy)
        return false;
    memcpy(copy, from, bytes);
    copy->reason = arena_copy(&exchange->arena, from->reason);
    for (uint32_t i = 0; i < from->field_count; i++) {
        copy->field[i].name = arena_copy(&exchange->arena, from->field[i].name);
        copy->field[i].value = arena_copy(&exchange->arena, from->field[i].value);
        if (!copy->field[i].name.at || !copy->field[i].value.at)
            return false;
    }
    exchange->response = copy;
    return true;
}

static enum step filter_response(struct exchange *exchange)
{
    while (exchange->filter_next < exchange->filter_count) {
        struct exchange_filter *filter = &exchange->filters[exchange->filter_next++];
        if (!filter->hooks->response_head)
            continue;
        switch (filter->hooks->response_head(exchange, filter)) {
        case FILTER_CONTINUE:
            break;
        case FILTER_ANSWER:
            return STEP_ANSWER;
        case FILTER_PAUSE:
            if (!keep_response(exchange))
                return fail(exchange, FAILURE_MEMORY, SIDE_INTERNAL);
            exchange->paused = 1;
            return STEP_WAIT;
        default:
            return fail(exchange, FAILURE_FILTER, SIDE_INTERNAL);
        }
    }
    return STEP_NEXT;
}

static void pass_piece(struct exchange *exchange, struct exchange_piece *piece)
{
    for (int i = 0; i < exchange->filter_count; i++) {
        struct exchange_filter *filter = &exchange->filters[i];
        if (filter->hooks->response_body)
            filter->hooks->response_body(exchange, filter, piece);
    }
    exchange->response_bytes += piece->length;
    exchange->response_done = piece->end;
    exchange->down->body(exchange, piece);
}

static enum step pass_response(struct exchange *exchange)
{
    exchange->status = exchange->response->status;
    exchange->response_begun = 1;
    exchange->response_done = !exchange->body_expected;
    if (exchange->status == 101)
        tunnel_begin(exchange);
    exchange->down->head(exchange);
    exchange->response = 0;
    if (exchange->has_held) {
        exchange->has_held = 0;
        pass_piece(exchange, &exchange->held);
    }
    return STEP_WAIT;
}

/* ---- the end ------------------------------------------------------------------------------ */

static void finish(struct exchange *exchange, uint8_t outcome)
{
    if (exchange->finished)
        return;
    keep_route(exchange);
    exchange->finished = 1;
    exchange->phase = PHASE_FINISHED;
    exchange->outcome = outcome;
    if (exchange->filter_timer.armed)
        wheel_cancel(exchange->wheel, &exchange->filter_timer);
    drop_upstream(exchange);
    drop_held(exchange);
    for (int i = 0; i < exchange->filter_count; i++)
        if (exchange->filters[i].hooks->log)
            exchange->filters[i].hooks->log(exchange, &exchange->filters[i]);
    counters_finished(exchange);
    if (exchange->proxy->log)
        exchange->proxy->log(exchange->proxy, exchange);
    arena_release(&exchange->arena);
}

/* ---- downstream events --------------------------------------------------------------------- */

void exchange_request_body(struct exchange *exchange, struct exchange_piece *piece)
{
    if (!exchange->up) {
        blocks_give(&exchange->proxy->blocks, piece->block);
        return;
    }
    exchange->request_bytes += piece->length;
    if (exchange->body_bytes_max > 0 && exchange->request_bytes > exchange->body_bytes_max &&
        !exchange->tunnel) {
        fail(exchange, FAILURE_BODY_TOO_LARGE, SIDE_DOWNSTREAM);
        blocks_give(&exchange->proxy->blocks, piece->block);
        if (!exchange->response_begun) {
            answer(exchange);
            return;
        }
        finish(exchange, EDGE_OUTCOME_CLIENT_ABORT);
        exchange->down->abort(exchange);
        return;
    }
    for (int i = 0; i < exchange->filter_count; i++) {
        struct exchange_filter *filter = &exchange->filters[i];
        if (filter->hooks->request_body &&
            filter->hooks->request_body(exchange, filter, piece) == FILTER_ANSWER &&
            !exchange->response_begun) {
            blocks_give(&exchange->proxy->blocks, piece->block);
            answer(exchange);
            return;
        }
    }
    exchange->request_done = piece->end;
    exchange->up->body(exchange, piece);
    if (exchange->up)
        exchange->up->flush(exchange);
}

void exchange_response_credit(struct exchange *exchange)
{
    if (exchange->up)
        exchange->up->credit(exchange);
}

void exchange_response_sent(struct exchange *exchange)
{
    if (exchange->tunnel && !exchange->request_done)
        return;
    finish(exchange, exchange->tunnel  ? EDGE_OUTCOME_TUNNEL
                     : exchange->local ? EDGE_OUTCOME_LOCAL
                                       : EDGE_OUTCOME_OK);
}

void exchange_downstream_failed(struct exchange *exchange, uint8_t failure_kind)
{
    if (exchange->finished)
        return;
    exchange->failure = (struct exchange_failure){.kind = failure_kind, .side = SIDE_DOWNSTREAM};
    finish(exchange, exchange->tunnel ? EDGE_OUTCOME_TUNNEL
                     : failure_kind == FAILURE_GRACE || failure_kind == FAILURE_MEMORY
                         ? EDGE_OUTCOME_LOST
                         : EDGE_OUTCOME_CLIENT_ABORT);
}

/* ---- upstream events ------------------------------------------------------------------------ */

void exchange_request_credit(struct exchange *exchange)
{
    if (!exchange->request_done && !exchange->finished)
        exchange->down->credit(exchange);
}

void exchange_interim(struct exchange *exchange, const struct h1_head *head)
{
    if (exchange->request->minor == 0)
        return;
    exchange->response = head;
    exchange->down->interim(exchange);
    exchange->response = 0;
    exchange->down->flush(exchange);
}

void exchange_response_head(struct exchange *exchange, const struct h1_head *head)
{
    exchange->response = head;
    if (exchange->has_route) /* counted in when the answer has gone out */
        __builtin_prefetch(&exchange->proxy->route_cells[exchange->route_slot], 1);
    exchange->body_expected = head->body != BODY_NONE;
    exchange->answered_ns = loop_now_ns(exchange->proxy->loop);
    exchange->tries[exchange->tries_count - 1].status = head->status;
    exchange->failure.kind = FAILURE_NONE;
    exchange->phase = PHASE_FILTER_RESPONSE;
    exchange->filter_next = 0;
    run(exchange);
}

void exchange_response_body(struct exchange *exchange, struct exchange_piece *piece)
{
    if (!exchange->paused) {
        pass_piece(exchange, piece);
        return;
    }
    exchange->held = *piece;
    exchange->has_held = 1;
    if (!piece->block) {
        exchange->held.at = arena_alloc(&exchange->arena, piece->length + 1);
        if (exchange->held.at) {
            memcpy(exchange->held.at, piece->at, piece->length);
            return;
        }
        fail(exchange, FAILURE_MEMORY, SIDE_INTERNAL);
        exchange->has_held = 0;
        answer(exchange);
    }
}

void exchange_response_flush(struct exchange *exchange)
{
    if (!exchange->paused && !exchange->finished)
        exchange->down->flush(exchange);
}

void exchange_upstream_done(struct exchange *exchange)
{
    exchange->up = 0;
    counters_try_ended(exchange);
}

void exchange_upstream_failed(struct exchange *exchange, struct exchange_failure failure)
{
    struct edge_upstream_cell *cell = counters_upstream(exchange);
    if (failure.kind == FAILURE_TIMEOUT)
        COUNT(cell->timeouts, 1);
    else if (failure.kind == FAILURE_CONNECT)
        COUNT(cell->connect_errors, 1);
    else
        COUNT(cell->resets, 1);
    count_shortage(exchange, failure.kind);
    exchange->up = 0;
    exchange->failure = failure;
    exchange->tries[exchange->tries_count - 1].failure = failure.kind;
    counters_try_ended(exchange);
    if (exchange->response_begun) {
        finish(exchange, exchange->tunnel ? EDGE_OUTCOME_TUNNEL : EDGE_OUTCOME_UPSTREAM_ABORT);
        exchange->down->abort(exchange);
        return;
    }
    exchange->paused = 0;
    drop_held(exchange);
    if (failure.retryable && exchange->tries_count < EXCHANGE_TRIES_MAX &&
        (exchange->request->body == BODY_NONE || exchange->down->rewind(exchange))) {
        exchange->request_done = exchange->request->body == BODY_NONE;
        exchange->request_bytes = 0;
        exchange->phase = PHASE_ENDPOINT;
        run(exchange);
        return;
    }
    answer(exchange);
}
