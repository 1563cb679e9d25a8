/* Views: patches on images, shared mappings, refusals.
 *
 * links: base/error.c base/huge.c base/hash.c snapshot/build.c snapshot/builder.c
 *  snapshot/build_hosts.c
 *  snapshot/build_names.c snapshot/build_paths.c snapshot/build_routes.c
 *  snapshot/build_upstreams.c snapshot/atoms.c snapshot/check.c
 *  snapshot/check_names.c snapshot/check_paths.c snapshot/check_routes.c snapshot/image.c
 *  snapshot/path_index.c */
#include "snapshot/view.c"

#include <unistd.h>

#include "snapshot/fixture.h"
#include "tap.h"

static struct fixture f;

/* An image in mapped memory, as it comes from a sealed memfd. */
static const uint8_t *mapped(uint32_t kind, uint64_t version, uint64_t base, uint64_t *size)
{
    struct edge_image image = fixture_build(&f, kind, version, base);
    uint8_t *memory =
        mmap(NULL, image.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    memcpy(memory, image.bytes, image.size);
    *size = image.size;
    edge_image_free(&image);
    return memory;
}

static const uint8_t *patch(uint64_t version, uint64_t base, uint32_t slot, uint16_t port,
                            uint64_t *size)
{
    f.used = 0;
    fixture_upstream(&f, slot);
    fixture_endpoints(&f, slot, 1, port);
    return mapped(EDGE_IMAGE_PATCH, version, base, size);
}

static void test_patches(struct snapshot_view *view)
{
    struct snapshot_view *second = NULL, *third = NULL, *none = NULL;
    struct edge_error err;
    const uint8_t *bytes;
    uint64_t size;

    bytes = patch(4, 3, 7, 1111, &size);
    IS(snapshot_view_patch(view, bytes, size, &second, &err), EDGE_OK, "a patch");
    IS(second->version, 4, "its version");
    IS(second->base_version, 3, "the image's version");
    IS(snapshot_upstream(second, 7)->endpoints[0].port, 1111, "new endpoints");
    IS(snapshot_upstream(second, 0)->endpoints[0].port, 8080, "others stay");
    IS(snapshot_upstream(view, 7)->endpoints[0].port, 9090, "the old view does not change");

    bytes = patch(5, 3, 7, 2222, &size);
    IS(snapshot_view_patch(second, bytes, size, &none, &err), EDGE_ERR_BASE, "another base");
    munmap((void *)(uintptr_t)bytes, size);
    bytes = patch(5, 4, 3, 2222, &size);
    IS(snapshot_view_patch(second, bytes, size, &none, &err), EDGE_ERR_REFERENCE, "no such slot");
    munmap((void *)(uintptr_t)bytes, size);

    bytes = patch(5, 4, 7, 2222, &size);
    IS(snapshot_view_patch(second, bytes, size, &third, &err), EDGE_OK, "a patch on a patch");
    IS(third->mapping_count, 2, "the patch that nothing points to any more is let go");
    snapshot_view_release(view);
    snapshot_view_release(second);
    IS(snapshot_upstream(third, 7)->endpoints[0].port, 2222, "older views released");
    IS(snapshot_upstream(third, 0)->record->slot, 0, "the image's upstream still there");
    IS_TEXT(snapshot_upstream(third, 0)->text + snapshot_upstream(third, 0)->record->name.offset,
            snapshot_upstream(third, 0)->record->name.length, "default/web:80", "and its name");
    snapshot_view_release(third);
}

static void test_map(void)
{
    int fd = memfd_create("image", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    struct edge_error err;
    const uint8_t *bytes;
    uint64_t size;

    IS(write(fd, "12345678", 8), 8, "written");
    IS(snapshot_map(fd, &bytes, &size, &err), EDGE_ERR_INVALID, "without seals it is refused");
    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
    IS(snapshot_map(fd, &bytes, &size, &err), EDGE_OK, "with seals it is mapped");
    IS(size, 8, "size");
    munmap((void *)(uintptr_t)bytes, size);
    close(fd);
    IS(snapshot_map(fd, &bytes, &size, &err), EDGE_ERR_SYSTEM, "a closed descriptor");
}

static void test_map_of_a_large_one(void)
{
    const uint64_t large = (5u << 20) + 8192;
    int fd = memfd_create("test", MFD_ALLOW_SEALING | MFD_CLOEXEC);
    struct edge_error err;
    const uint8_t *bytes;
    uint64_t size;

    IS(ftruncate(fd, (off_t)large - 8), 0, "room");
    IS(pwrite(fd, "87654321", 8, (off_t)large - 8), 8, "written at the end");
    fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE);
    IS(snapshot_map(fd, &bytes, &size, &err), EDGE_OK, "5 MiB are mapped");
    IS(size, large, "all of them");
    IS((uintptr_t)bytes % (2u << 20), 0, "at a huge page");
    OK(memcmp(bytes + size - 8, "87654321", 8) == 0 && bytes[0] == 0, "with their bytes");
    munmap((void *)(uintptr_t)bytes, size);
    close(fd);
}

int main(void)
{
    struct snapshot_view *view = NULL, *none = NULL;
    struct edge_error err;
    const uint8_t *bytes;
    uint64_t size;

    fixture_everything(&f);
    bytes = mapped(EDGE_IMAGE_FULL, 3, 0, &size);
    IS(snapshot_view_create(bytes, size, &view, &err), EDGE_OK, "a view");
    IS(view->version, 3, "version");
    OK(snapshot_upstream(view, 1) == NULL, "an empty slot");
    OK(snapshot_upstream(view, 70000) == NULL, "a slot that cannot be");
    IS(snapshot_upstream(view, 7)->record->endpoint_count, 1, "endpoints");
    test_patches(view);

    bytes = patch(4, 3, 7, 1, &size);
    IS(snapshot_view_create(bytes, size, &none, &err), EDGE_ERR_INVALID, "a patch is no image");
    OK(none == NULL, "no view");
    munmap((void *)(uintptr_t)bytes, size);
    test_map();
    test_map_of_a_large_one();
    return tap_done();
}
