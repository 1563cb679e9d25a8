"""Builds the container image without an engine: debootstrap makes the base, buildah runs the Dockerfile.

`make image` runs it, tests call `build()`. Needs root, buildah and debootstrap. The base, the layers and
buildah's own storage are kept in the user's cache; the result is a docker-archive under build/image, made
anew only when something that it holds has changed.

    python -m manifests.image.build [--target edge|bcc] [--base IMAGE]
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAME = "localhost/xdp-edge"
TAGS = {"edge": "dev", "bcc": "dev-bcc"}
BASE = "localhost/xdp-edge-base:12-slim"
SUITE = "bookworm"
# What Debian's own slim images leave out, too.
UNREAD = ("usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/lintian")
EMPTIED = ("var/cache/apt", "var/lib/apt/lists", "var/log", "var/cache/debconf", "tmp", "dev")
# Images of earlier builds, which nothing uses, are removed when there are more than so many in all.
IMAGES_MAX = 60
# What the context of the build holds; .dockerignore says the same to other builders.
CONTEXT = ("Dockerfile", ".dockerignore", "pyproject.toml", "LICENSE", "bpf", "csrc", "edge")
LEFT_OUT = "edge/design"


class ImageError(Exception):
    """The image cannot be built; the text says why."""


def cache() -> Path:
    """Where base, layers and storage are kept between runs."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "xdp-edge" / "image"


def archive(target: str = "edge") -> Path:
    """Where the image of a target is put."""
    return ROOT / "build" / "image" / ("xdp-edge.tar" if target == "edge" else f"xdp-edge-{target}.tar")


def run(*words: str | Path, quiet: bool = True) -> str:
    """Run a program. Shape: what it printed. Errors: ImageError with the end of what it said."""
    done = subprocess.run(
        [str(word) for word in words],
        stdout=subprocess.PIPE if quiet else None,
        stderr=subprocess.STDOUT if quiet else None,
        stdin=subprocess.DEVNULL,
        text=True,
        check=False,
        cwd=ROOT,
    )
    if done.returncode:
        end = "\n".join((done.stdout or "").splitlines()[-25:])
        raise ImageError(f"{words[0]} ended with {done.returncode}\n{end}")
    return done.stdout or ""


def buildah(*words: str | Path) -> str:
    """Run buildah on the storage of this cache. Errors: ImageError."""
    place = ["--root", cache() / "storage", "--runroot", cache() / "run", "--storage-driver", driver()]
    return run("buildah", *place, *words)


def driver() -> str:
    """Overlay mounts where the cache's file system takes them, else plain copies."""
    on = run("stat", "-f", "-c", "%T", cache()).strip()
    return "vfs" if on in ("overlayfs", "tmpfs", "nfs") else "overlay"


# ---- the base --------------------------------------------------------------------------------


def sources(folder: Path = Path("/etc/apt")) -> list[str]:
    """The machine's own Debian sources of this suite, as lines of a sources.list without options.

    Errors: ImageError where the machine has none.
    """
    found = []
    for path in [*folder.glob("sources.list"), *sorted((folder / "sources.list.d").glob("*"))]:
        if path.suffix == ".sources":
            found += [line for text in path.read_text().split("\n\n") for line in _stanza(text)]
        elif path.suffix == ".list":
            found += [" ".join(words) for words in map(_words, path.read_text().splitlines()) if words]
    kept = [line for line in dict.fromkeys(found) if line.split()[2].startswith(SUITE)]
    if not kept:
        raise ImageError(f"the machine's apt has no sources of Debian {SUITE}")
    return kept


def _words(line: str) -> list[str]:
    words = line.split("#")[0].split()
    if not words or words[0] != "deb":
        return []
    if words[1].startswith("["):
        end = next(i for i, word in enumerate(words) if word.endswith("]"))
        words = [words[0], *words[end + 1 :]]
    return words


def _stanza(text: str) -> Iterator[str]:
    fields = {}
    for line in text.splitlines():
        name, colon, value = line.partition(":")
        if colon and not line.startswith(("#", " ", "\t")):
            fields[name.lower()] = value.split()
    if "deb" not in fields.get("types", ()) or fields.get("enabled") == ["no"]:
        return
    for uri in fields.get("uris", ()):
        for suite in fields.get("suites", ()):
            yield " ".join(["deb", uri, suite, *fields.get("components", ["main"])])


def make_base(settings: list[str]) -> None:
    """Bootstrap Debian, slim, updated, into buildah's storage; does nothing when it is there."""
    try:
        buildah("inspect", "--type", "image", BASE)
        return
    except ImageError:
        pass
    say("bootstrapping the base")
    with tempfile.TemporaryDirectory(prefix="base-", dir=cache()) as scratch:
        root = Path(scratch) / "root"
        lines = sources()
        mirror = next((line.split()[1] for line in lines if line.split()[2] == SUITE), lines[0].split()[1])
        run("debootstrap", "--variant=minbase", SUITE, root, mirror)
        for name in UNREAD:
            shutil.rmtree(root / name, ignore_errors=True)
        for name in EMPTIED:
            for path in (root / name).iterdir() if (root / name).is_dir() else ():
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
        (root / "etc/apt/sources.list").write_text("")
        (root / "etc/dpkg/dpkg.cfg.d/slim").write_text(
            "".join(f"path-exclude /{name}/*\n" for name in UNREAD)
        )
        for name in ("resolv.conf", "hostname"):
            (root / "etc" / name).unlink(missing_ok=True)
        packed = Path(scratch) / "base.tar"
        with tarfile.open(packed, "w") as tar:
            tar.add(root, ".")
        name = buildah("from", "scratch").split()[-1]
        try:
            buildah("add", "--quiet", name, packed, "/")
            steps = "apt-get update -qq && apt-get upgrade -y -qq"
            steps += " && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*"
            buildah("run", "--isolation", "chroot", *settings, name, "sh", "-c", steps)
            buildah("config", "--cmd", "bash", name)
            buildah("commit", "--quiet", "--squash", name, BASE)
        finally:
            buildah("rm", name)


def machine_settings(folder: Path) -> list[str]:
    """Options that lend a build this machine's package sources, proxies and certificates; nothing stays."""
    (folder / "sources.list").write_text("".join(line + "\n" for line in sources()))
    pip = {
        name[4:].lower().replace("_", "-"): value for name, value in os.environ.items() if name[:4] == "PIP_"
    }
    pip = {name: value for name, value in pip.items() if name not in ("find-links", "config-file")}
    apt = [line for line in run("apt-config", "dump").splitlines() if line.startswith("Acquire::http")]
    volumes = {folder / name: f"/etc/apt/{name}" for name in ("sources.list", "apt.conf")}
    volumes[folder / "pip.conf"] = "/etc/pip.conf"
    bundle = Path("/etc/ssl/certs/ca-certificates.crt")
    if bundle.exists():
        volumes[bundle] = "/etc/host-ca-certificates.crt"
        pip["cert"] = volumes[bundle]
        apt.append(f'Acquire::https::CAInfo "{volumes[bundle]}";')
    (folder / "pip.conf").write_text("[global]\n" + "".join(f"{key} = {pip[key]}\n" for key in sorted(pip)))
    (folder / "apt.conf").write_text("\n".join(apt) + "\n")
    return [word for path, inside in volumes.items() for word in ("--volume", f"{path}:{inside}:ro")]


# ---- the image -------------------------------------------------------------------------------


def digest(target: str, base: str) -> str:
    """Digest of all that an image is made from, but for what the distribution and PyPI give."""
    found = hashlib.sha256(f"{target} {base}".encode())
    for path in sorted(path for name in CONTEXT for path in [ROOT / name, *(ROOT / name).rglob("*")]):
        if path.is_file() and path.suffix not in (".so", ".pyc") and ROOT / LEFT_OUT not in path.parents:
            found.update(str(path.relative_to(ROOT)).encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()


def build(target: str = "edge", base: str = BASE) -> Path:
    """Build the image of a target, if anything changed. Shape: the archive. Errors: ImageError."""
    output = archive(target)
    output.parent.mkdir(parents=True, exist_ok=True)
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        wanted, stamp = digest(target, base), output.with_suffix(".digest")
        if output.exists() and stamp.exists() and stamp.read_text() == wanted:
            return output
        for program in ("buildah", "debootstrap"):
            if shutil.which(program) is None:
                raise ImageError(f"{program} is not installed: apt-get install {program}")
        name = f"{NAME}:{TAGS[target]}"
        with tempfile.TemporaryDirectory(prefix="settings-", dir=cache()) as scratch:
            settings = machine_settings(Path(scratch))
            if base == BASE:
                make_base(settings)
            say(f"building {name}")
            how = ("--layers", "--isolation", "chroot", "--pull-never", *settings)
            what = ("--build-arg", f"BASE={base}", "--target", target, "--tag", name)
            buildah("bud", *how, *what, "--file", ROOT / "Dockerfile", ROOT)
        fresh = output.with_suffix(".new")
        fresh.unlink(missing_ok=True)
        buildah("push", "--quiet", name, f"docker-archive:{fresh}:{name}")
        fresh.replace(output)
        stamp.write_text(wanted)
        if len(buildah("images", "--all", "--quiet").split()) > IMAGES_MAX:
            buildah("rmi", "--prune", "--force")
    return output


def layers(path: Path) -> list[tuple[str, int]]:
    """What each layer of an archive was made by, and its size. Units: bytes, unpacked."""
    with tarfile.open(path) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))[0]  # type: ignore[arg-type]
        config = json.load(tar.extractfile(manifest["Config"]))  # type: ignore[arg-type]
        sizes = [tar.getmember(name).size for name in manifest["Layers"]]
    made = [step["created_by"] for step in config["history"] if not step.get("empty_layer")]
    return list(zip(made, sizes, strict=False))


def say(text: str) -> None:
    """Tell the terminal what takes long."""
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    """Build, and print the layers and their sizes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--target", choices=sorted(TAGS), default="edge")
    parser.add_argument("--base", default=BASE, help="an image that buildah's storage has")
    asked = parser.parse_args()
    try:
        path = build(asked.target, asked.base)
    except ImageError as error:
        print(f"image: {error}", file=sys.stderr)
        return 1
    for made, size in layers(path):
        print(f"{size / 1e6:8.1f} MB  {' '.join(made.split())[:90]}")
    print(f"{path.stat().st_size / 1e6:8.1f} MB  {path.relative_to(ROOT)}  {NAME}:{TAGS[asked.target]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
