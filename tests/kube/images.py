"""Images for the nodes, without a registry or an image builder: docker-archive files of one layer."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.kube import build

PAUSE = "localhost/edge-pause:1"
WEB = "localhost/edge-web:1"
SOURCE = Path(__file__).parent / "web" / "main.go"
BUSYBOX = Path("/bin/busybox")
APPLETS = ("sh", "sleep", "ls", "cat", "ip", "mount", "ps", "kill", "df", "dd")


def make(folder: Path) -> None:
    """Write the archives of the test images."""
    web = build.program_of_source(SOURCE, "edge-web")
    archive(folder / "pause.tar", PAUSE, ["/web", "pause"], {"/web": web})
    links = dict.fromkeys((f"/bin/{applet}" for applet in APPLETS), "/bin/busybox")
    archive(folder / "web.tar", WEB, ["/web"], {"/web": web, "/bin/busybox": BUSYBOX}, links)


def archive(
    target: Path,
    name: str,
    entry: Sequence[str],
    files: Mapping[str, Path],
    links: Mapping[str, str] | None = None,
) -> None:
    """Write a docker-archive of one layer with these files and links."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        folders = {str(Path(path).parent).strip("/") for path in files}
        for folder in sorted(folders - {""} | {"tmp", "etc", "proc", "sys", "dev", "run"}):
            entry_of = tarfile.TarInfo(folder)
            entry_of.type, entry_of.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry_of)
        for path, source in files.items():
            entry_of = tarfile.TarInfo(path.strip("/"))
            entry_of.size, entry_of.mode = source.stat().st_size, 0o755
            with source.open("rb") as content:
                tar.addfile(entry_of, content)
        for path, to in (links or {}).items():
            entry_of = tarfile.TarInfo(path.strip("/"))
            entry_of.type, entry_of.linkname = tarfile.SYMTYPE, to
            tar.addfile(entry_of)
    content = layer.getvalue()
    digest = hashlib.sha256(content).hexdigest()
    config = json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Entrypoint": list(entry), "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
            "history": [{"created_by": "tests.kube.images"}],
        }
    ).encode()
    config_name = f"{hashlib.sha256(config).hexdigest()}.json"
    layer_name = f"{digest}/layer.tar"
    listing = json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": [layer_name]}]).encode()
    with tarfile.open(target, "w") as tar:
        for path, data in ((config_name, config), (layer_name, content), ("manifest.json", listing)):
            entry_of = tarfile.TarInfo(path)
            entry_of.size = len(data)
            tar.addfile(entry_of, io.BytesIO(data))


def add(folder: Path, source: Path) -> Path:
    """Put an archive beside the others, so that every node has it at its next boot too."""
    target = folder / source.name
    if not (target.exists() and target.samefile(source)):
        shutil.copyfile(source, target)
    return target
