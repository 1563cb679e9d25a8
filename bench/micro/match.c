/* Times the matcher on one table of routes, for bench/micro/match.py.
 *
 * "match HOSTS PATHS own|same zipf|uniform COUNT": builds an image of HOSTS x PATHS Prefix
 * routes (own: every host has paths of its own; same: all hosts have the same ones), then matches
 * COUNT requests and prints one JSON line. The texts of requests lie in a small buffer that is
 * written, untimed, before each batch, as the head parser leaves them; the place of a request
 * hangs on the answer to the one before it, so that no two wait for memory at the same time. */
#define _GNU_SOURCE
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "match/matcher.h"
#include "snapshot/view.h"

#define BATCH 128
#define SAMPLES (1u << 18)

struct text {
    char *at;
    size_t used, room;
};

static uint32_t hosts, paths;
static bool own;
static struct text fragments;

static uint64_t random_state = 88172645463325252u;
static uint64_t random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

static void *grow(size_t bytes)
{
    void *at;

    if (fragments.used + bytes > fragments.room) {
        fragments.room = 2 * fragments.room + bytes + (1u << 20);
        fragments.at = realloc(fragments.at, fragments.room);
        if (fragments.at == NULL)
            abort();
    }
    at = fragments.at + fragments.used;
    memset(at, 0, bytes);
    fragments.used += bytes;
    return at;
}

static int host_of(uint32_t host, char *out)
{
    return sprintf(out, "app-%05u.team-%02u.example.com", host, host % 97);
}

static int path_of(uint32_t host, uint32_t path, char *out)
{
    if (paths == 1)
        return sprintf(out, "/");
    if (own)
        return sprintf(out, "/area-%02u/item-%04u-%05u", path % 13, host, path);
    return sprintf(out, "/area-%02u/item-%05u", path % 13, path);
}

static void put_listener(void)
{
    const uint32_t bytes = (sizeof(struct edge_fragment_listener) + 7) & ~7u;
    struct edge_fragment_listener *it = grow(bytes);
    it->head = (struct edge_fragment){EDGE_FRAGMENT_LISTENER, bytes};
    it->listener = (struct edge_image_listener){.generation = 1,
                                                .port = 80,
                                                .transport = EDGE_TRANSPORT_PLAIN,
                                                .head_bytes_max = 32768,
                                                .target_bytes_max = 8192,
                                                .idle_ms = 1,
                                                .head_ms = 1};
}

static void put_upstreams(uint32_t count)
{
    for (uint32_t slot = 0; slot < count; slot++) {
        char name[32];
        uint32_t length = (uint32_t)sprintf(name, "team/service-%u:80", slot);
        size_t bytes = (sizeof(struct edge_fragment_upstream) + length + 7) & ~(size_t)7;
        struct edge_fragment_upstream *it = grow(bytes);
        it->head = (struct edge_fragment){EDGE_FRAGMENT_UPSTREAM, (uint32_t)bytes};
        it->upstream = (struct edge_image_upstream){.slot = slot,
                                                    .generation = 1,
                                                    .protocol = EDGE_PROTOCOL_HTTP1,
                                                    .balance = EDGE_BALANCE_ROUND_ROBIN,
                                                    .connect_ms = 1,
                                                    .read_ms = 1,
                                                    .send_ms = 1,
                                                    .idle_ms = 1,
                                                    .name = {sizeof(*it), length}};
        memcpy(it + 1, name, length);
    }
}

static struct edge_text put_text(char *fragment, uint32_t *used, const char *text)
{
    struct edge_text out = {*used, (uint32_t)strlen(text)};

    memcpy(fragment + *used, text, out.length);
    *used += out.length;
    return out;
}

/* As the controller writes them: one object a host, one service a route out of up to 2,000. */
static void put_route(uint32_t slot, uint32_t host, uint32_t path, uint32_t services)
{
    _Alignas(8) char fragment[1024] = {0};
    struct edge_fragment_route *it = (void *)fragment;
    struct edge_image_reference *reference = (void *)(it + 1);
    uint32_t used = sizeof(*it) + sizeof(*reference);
    char text[128];

    it->references_offset = sizeof(*it);
    *reference = (struct edge_image_reference){slot % services, 1};
    it->route.slot = slot;
    it->route.generation = 1;
    it->route.path_type = EDGE_PATH_PREFIX;
    it->route.reference_count = 1;
    it->route.path_index = path;
    host_of(host, text);
    it->host = put_text(fragment, &used, text);
    path_of(host, path, text);
    it->route.path = it->route.path_written = put_text(fragment, &used, text);
    it->route.precedence = UINT64_C(1) << 32 | (UINT32_MAX - it->route.path.length);
    it->route.kind = put_text(fragment, &used, "Ingress");
    sprintf(text, "team-%02u", host % 97);
    it->route.object_namespace = put_text(fragment, &used, text);
    sprintf(text, "app-%u", host);
    it->route.object_name = put_text(fragment, &used, text);
    sprintf(text, "service-%u:80", slot % services);
    it->route.service = put_text(fragment, &used, text);
    used = (used + 7) & ~7u;
    it->head = (struct edge_fragment){EDGE_FRAGMENT_ROUTE, used};
    memcpy(grow(used), fragment, used);
}

static struct edge_image build(double *seconds)
{
    const uint32_t services = hosts * paths < 2000 ? hosts * paths : 2000;
    struct edge_build_options options = {.kind = EDGE_IMAGE_FULL, .version = 1};
    struct edge_image image;
    struct edge_error err = {0};
    struct timespec t0, t1;

    put_listener();
    put_upstreams(services);
    for (uint32_t host = 0; host < hosts; host++)
        for (uint32_t path = 0; path < paths; path++)
            put_route(host * paths + path, host, path, services);
    clock_gettime(CLOCK_MONOTONIC, &t0);
    if (edge_image_build((uint8_t *)fragments.at, fragments.used, &options, &image, &err) !=
        EDGE_OK) {
        fprintf(stderr, "%s: %s\n", err.field, err.reason);
        exit(1);
    }
    clock_gettime(CLOCK_MONOTONIC, &t1);
    *seconds = (double)(t1.tv_sec - t0.tv_sec) + 1e-9 * (double)(t1.tv_nsec - t0.tv_nsec);
    free(fragments.at);
    return image;
}

/* As the data plane has it: sealed memory, mapped. */
static const uint8_t *mapped(const struct edge_image *built)
{
    const int seals = F_SEAL_WRITE | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
    int fd = memfd_create("image", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    const uint8_t *bytes;
    uint64_t size;

    if (fd < 0 || write(fd, built->bytes, built->size) != (ssize_t)built->size ||
        fcntl(fd, F_ADD_SEALS, seals) < 0 || snapshot_map(fd, &bytes, &size, NULL) != EDGE_OK)
        abort();
    close(fd);
    return bytes;
}

/* Which route each request is for: ranks are spread over the table by a random permutation. */
static uint32_t *draw(bool zipf)
{
    const uint32_t routes = hosts * paths;
    uint32_t *samples = malloc(SAMPLES * sizeof(*samples));
    uint32_t *order = malloc(routes * sizeof(*order));
    double *sum = malloc(routes * sizeof(*sum)), total = 0;

    for (uint32_t i = 0; i < routes; i++) {
        order[i] = i;
        total += 1.0 / (i + 1);
        sum[i] = total;
    }
    for (uint32_t i = routes; i > 1; i--) {
        uint32_t k = (uint32_t)(random_next() % i), kept = order[i - 1];
        order[i - 1] = order[k];
        order[k] = kept;
    }
    for (uint32_t i = 0; i < SAMPLES; i++) {
        uint32_t low = 0, high = routes - 1;
        double wanted = total * ((double)(random_next() >> 11) / 9007199254740992.0);
        if (!zipf)
            low = high = (uint32_t)(random_next() % routes);
        while (low < high) {
            uint32_t middle = (low + high) / 2;
            if (sum[middle] < wanted)
                low = middle + 1;
            else
                high = middle;
        }
        samples[i] = order[low];
    }
    free(order);
    free(sum);
    return samples;
}

struct asked {
    char host[48], path[80];
    uint32_t host_length, path_length, slot;
};

static void ask(struct asked *out, uint32_t slot)
{
    out->slot = slot;
    out->host_length = (uint32_t)host_of(slot / paths, out->host);
    out->path_length = (uint32_t)path_of(slot / paths, slot % paths, out->path);
    out->path_length += (uint32_t)sprintf(out->path + out->path_length, "%s",
                                          paths == 1 ? "index.html" : "/detail-77");
}

#ifdef BEFORE_INDEX
static int32_t match(const struct image *image, const struct asked *it)
{
    return match_route(image, 0, (struct slice){it->host, it->host_length},
                       (struct slice){it->path, it->path_length});
}
#else
static int32_t match(const struct image *image, const struct asked *it)
{
    struct match_request request = {.host = {it->host, it->host_length},
                                    .path = {it->path, it->path_length},
                                    .method = SLICE("GET")};
    return match_route(image, 0, &request);
}
#endif

static int compare(const void *left, const void *right)
{
    const double a = *(const double *)left, b = *(const double *)right;
    return (a > b) - (a < b);
}

int main(int argc, char **argv)
{
    static struct asked batch[BATCH];
    struct edge_image built;
    struct image image;
    uint64_t count, wrong = 0, bytes = 0;
    double seconds, *spent;
    uint32_t *samples, at = 0;

    if (argc != 6) {
        fprintf(stderr, "usage: match HOSTS PATHS own|same zipf|uniform COUNT\n");
        return 2;
    }
    hosts = (uint32_t)strtoul(argv[1], NULL, 10);
    paths = (uint32_t)strtoul(argv[2], NULL, 10);
    own = strcmp(argv[3], "own") == 0;
    built = build(&seconds);
    samples = draw(strcmp(argv[4], "zipf") == 0);
    count = strtoull(argv[5], NULL, 10);
    image_open(&image, mapped(&built));
    spent = malloc((count / BATCH + 1) * sizeof(*spent));
    for (uint64_t i = 0; i < count; i += BATCH) {
        struct timespec t0, t1;
        int32_t found[BATCH];
        uint32_t last = 0;
        for (uint32_t k = 0; k < BATCH; k++)
            ask(&batch[k], samples[at++ % SAMPLES]);
        clock_gettime(CLOCK_MONOTONIC, &t0);
        for (uint32_t k = 0; k < BATCH; k++) {
            /* last >> 31 is always 0, but only the answer before says so. */
            found[k] = match(&image, &batch[k + (last >> 31)]);
            last = (uint32_t)found[k];
        }
        clock_gettime(CLOCK_MONOTONIC, &t1);
        spent[i / BATCH] =
            (double)(t1.tv_sec - t0.tv_sec) * 1e9 + (double)(t1.tv_nsec - t0.tv_nsec);
        for (uint32_t k = 0; k < BATCH; k++)
            wrong += found[k] < 0 || image.routes[found[k]].slot != batch[k].slot;
    }
    for (uint32_t i = 1; i < EDGE_SECTION_COUNT; i++)
        if (i != EDGE_SECTION_UPSTREAM)
            bytes += (uint64_t)image.count[i] * image_entry_bytes(i);
    count = (count + BATCH - 1) / BATCH;
    qsort(spent, count, sizeof(*spent), compare);
    printf("{\"ns_median\": %.1f, \"ns_p10\": %.1f, \"ns_p90\": %.1f, \"requests\": %" PRIu64
           ", \"wrong\": %" PRIu64 ", \"image_bytes\": %" PRIu64
           ", \"bytes_a_route\": %.1f, \"build_ms\": %.1f}\n",
           spent[count / 2] / BATCH, spent[count / 10] / BATCH, spent[count * 9 / 10] / BATCH,
           count * BATCH, wrong, built.size, (double)bytes / (hosts * paths), 1e3 * seconds);
    return wrong != 0;
}
