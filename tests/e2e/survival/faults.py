"""Faults of what the machine gives: disk, descriptors, memory, pipes, ports, CPUs.

Each function makes one fault under traffic and returns its line of the survival table; FAULTS names
them for test_faults.py and `make chaos`. Faults inside of our processes and of the kernel's
objects stand in faults_inside.py and faults_kernel.py.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from bench.proxy import processes
from tests.e2e.lab import ROOT, wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import EDGE, Running
from tests.e2e.survival.faults_inside import FAULTS as INSIDE
from tests.e2e.survival.faults_kernel import FAULTS as KERNEL
from tests.e2e.survival.scene import HOST, Odd, Scene, fill, processor_time, scene, small_disk
from tests.e2e.survival.table import Line
from tests.fakes.client import Client

DOWNLOAD_BYTES = 1 << 20
LONG_PATH = "/" + "x" * 6000  # fills a log's ring within some hundred lines
RING_BYTES = 1 << 20  # ACCESS_LOG_RING_BYTES
BUSY_MAX = 0.3  # of a CPU
DESCRIPTORS = 64
READERS = 900  # for each 64 MB


def metric(edge: Running, name: str) -> float:
    """Return a sample of /metrics."""
    return edge.metrics()[name]


def log_disk_full(folder: Path, loop: str) -> Line:
    """The access log's disk fills up, and has room again."""
    folder.chmod(0o755)
    with (
        small_disk(folder / "log", 8192) as disk,
        scene("log disk full", folder, loop, access_log=disk / "access.log") as here,
    ):
        edge, line = here.edge, here.line
        filler = fill(disk)
        with here.asking() as asking, Client(edge.address, edge.port) as client:
            wait_for("lines are dropped", lambda: fill_log(edge, client))
            dropped = metric(edge, "edge_access_log_dropped_total")
            here.demand(rest(edge) < BUSY_MAX, "it spins")
            size = (disk / "access.log").stat().st_size
            filler.unlink()
            wait_for("lines are written again", lambda: (disk / "access.log").stat().st_size > size)
            asking.go_on(20)
        lines = (disk / "access.log").read_text().splitlines()
        torn = [text for text in lines if text.count(HOST) != 1]
        here.demand(not torn, f"{len(torn)} torn lines: {torn[:2]}")
        line.clients = "nothing"
        line.operator = f"edge_access_log_dropped_total {dropped:.0f}, then whole lines again"
        return line


def state_disk_full(folder: Path, loop: str) -> Line:
    """The state folder's disk is full while objects change, and the controller is killed."""
    folder.chmod(0o755)
    with (
        small_disk(folder / "disk", 256) as disk,
        scene("state disk full", folder, loop, state_dir=disk) as here,
    ):
        edge, line = here.edge, here.line
        with here.asking():
            filler = fill(disk)
            here.publish("b")
            wait_for("b is served", lambda: edge.served("b.example") == 200)
            wait_for("it is said", lambda: "No space left" in edge.lines())
            said = next(text for text in edge.lines().splitlines() if "No space left" in text)
            old = edge.pid("edge-controller")
            os.kill(old, 9)
            here.publish("c")
            wait_for("c is served", lambda: edge.served("c.example") == 200)
            filler.unlink()
            here.publish("d")
            wait_for("d is served", lambda: edge.served("d.example") == 200)
        here.demand(edge.admin_json("/diagnostics")["publish_error"] == "", "a publish error is left")
        line.clients = "nothing; changes are served"
        line.operator = said
        return line


def counted(edge: Running, name: str) -> int:
    """Return what the holder counts, -1 while there is none to ask."""
    try:
        return int(edge.holder()[name])
    except (OSError, AssertionError):
        return -1


def run_disk_full(folder: Path, loop: str) -> Line:
    """The run directory's disk is full while everything of us dies or is upgraded once."""
    folder.chmod(0o755)
    with (
        small_disk(folder / "run", 256) as disk,
        scene("run directory's disk full", folder, loop, run_dir=disk) as here,
    ):
        edge, line = here.edge, here.line
        fill(disk)
        with here.asking(inside_max=2) as asking:
            for child in ("data_pid", "controller_pid"):
                old = edge.holder()[child]
                os.kill(int(old), 9)
                wait_for("another", lambda child=child, old=old: edge.holder()[child] not in ("0", old))
                asking.go_on(30)
            words = [EDGE, "upgrade", "--instance", edge.name, "--run-dir", disk]
            upgrade = subprocess.run(words, capture_output=True, text=True, timeout=60)
            here.demand(upgrade.returncode == 0, f"edge upgrade: {upgrade.stdout}{upgrade.stderr}")
            wait_for("the new holder answers", lambda: counted(edge, "handovers") == 1)
            here.demand(edge.process.wait(10) == 0, "the old holder did not end with 0")
            asking.go_on(30)
            os.kill(int(edge.holder()["pid"]), 9)
            edge.start()
            wait_for("adopted", lambda: counted(edge, "adoptions") == 1)
            wait_for("ready", edge.ready)
            asking.go_on(30)
        said = [text for text in edge.lines().splitlines() if "No space left" in text]
        line.clients = f"nothing but the data plane's death: {line.inside} inside"
        line.operator = said[0] if said else "nothing"
        return line


def limited(resource: str, value: int) -> type[Odd]:
    """Make instances whose data plane may use so much; the limit is its own, nobody else's."""

    class Limited(Odd):
        in_child = (
            "import resource\nif module == 'edge.dataplane':\n"
            f"    resource.setrlimit(resource.{resource}, ({value}, {value}))"
        )

    return Limited


def descriptors_used_up(folder: Path, loop: str) -> Line:
    """The data plane may open no more descriptors; kept connections go on, new ones wait or are refused."""
    kind = limited("RLIMIT_NOFILE", DESCRIPTORS)
    with scene("descriptor limit", folder, loop, kind, workers=1) as here, contextlib.ExitStack() as stack:
        edge, line = here.edge, here.line
        pid = edge.pid("edge-data")
        with here.asking(fresh=False) as asking:
            wait_for("a kept connection is there", lambda: asking.answers() > 5)
            for _ in range(2 * DESCRIPTORS):
                holding = socket.create_connection((edge.address, edge.port), 5)
                stack.callback(holding.close)
                holding.sendall(b"GET / HTTP/1.1\r\n")  # and no more: it holds what it has
            wait_for("refusals are counted", lambda: metric(edge, "edge_accept_errors_total") > 0)
            errors = metric(edge, "edge_accept_errors_total")
            began, used_s = time.monotonic(), processor_time(Path(f"/proc/{pid}"))
            asking.go_on(100)
            busy = (processor_time(Path(f"/proc/{pid}")) - used_s) / (time.monotonic() - began)
            more = metric(edge, "edge_accept_errors_total") - errors
            here.demand(busy < BUSY_MAX, f"it spins: {busy:.0%} of a CPU, {more:.0f} refusals more")
            stack.close()
            wait_for("new connections are served again", lambda: edge.served(HOST) == 200)
        here.demand(edge.pid("edge-data") == pid, "the data plane was replaced")
        line.clients = "kept connections: nothing; new ones wait until there is room"
        line.operator = f"edge_accept_errors_total {errors:.0f}; {busy:.0%} of a CPU meanwhile"
        return line


def memory_used_up(folder: Path, loop: str) -> Line:
    """The data plane may have little memory; slow readers want more than that. 256 MB in the long form."""
    megabytes = 256 if os.environ.get("EDGE_LONG") else 64
    kind = limited("RLIMIT_DATA", megabytes << 20)
    name = f"memory limit {megabytes} MB"
    with scene(name, folder, loop, kind, workers=1) as here, contextlib.ExitStack() as stack:
        edge, line = here.edge, here.line
        serve_downloads(here, stack)
        pid = edge.pid("edge-data")
        readers: list[Client] = []
        for _ in range(READERS * megabytes // 64):
            reader = Client(edge.address, edge.port, timeout=5)
            stack.callback(reader.close)
            reader.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.send_request("big.example")
            readers.append(reader)
        wait_for("all have an answer", lambda: not outcomes(readers)["waiting"])
        refused = int(metric(edge, "edge_memory_errors_total"))
        found, size = outcomes(readers), memory_of(pid)
        for reader in readers:
            reader.close()
        wait_for("new connections are served", lambda: edge.served(HOST) == 200)
        with here.asking() as asking:
            asking.go_on(100)
        here.demand(edge.pid("edge-data") == pid, "the data plane died")
        words = [f"{number} {what}" for what, number in found.items() if number]
        line.clients = f"of {len(readers)} slow downloads: {', '.join(words)}; afterwards nothing"
        line.operator = f"edge_memory_errors_total {refused}; the data plane had {size >> 20} MB, and lives"
        return line


def serve_downloads(here: Scene, stack: contextlib.ExitStack) -> None:
    """Route big.example to an endpoint that is fast, so that only its readers are slow."""
    port = processes.free_port()
    tool = processes.compile_tool("origin")
    words = [str(tool), "127.0.0.1", str(port), str(DOWNLOAD_BYTES), "120"]
    origin = stack.enter_context(subprocess.Popen(words))
    stack.callback(origin.kill)
    processes.wait_port(port, origin)
    objects = service("big"), endpoints("big", port), ingress("big", [("big.example", "/", "big")])
    write(here.config, "big.yaml", *objects)
    wait_for("downloads are served", lambda: here.edge.served("big.example") == 200)


def outcomes(readers: list[Client]) -> dict[str, int]:
    """Shape: what became of so many slow downloads."""
    found = {"served": 0, "refused": 0, "closed": 0, "waiting": 0}
    for reader in readers:
        try:
            data = reader.socket.recv(16, socket.MSG_PEEK | socket.MSG_DONTWAIT)
            what = "served" if data.startswith(b"HTTP/1.1 200") else "refused" if data else "closed"
        except BlockingIOError:
            what = "waiting"
        except OSError:
            what = "closed"
        found[what] += 1
    return found


def memory_of(pid: int) -> int:
    """Return what RLIMIT_DATA counts. Units: bytes."""
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmData:")[2].split()[0]) << 10


def log_pipe_blocked(folder: Path, loop: str) -> Line:
    """The access log is a pipe whose reader sleeps, and wakes up."""
    fifo = folder / "log.fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with scene("log pipe blocked", folder, loop, access_log=fifo) as here:
            edge, line = here.edge, here.line
            with here.asking() as asking, Client(edge.address, edge.port) as client:
                wait_for("lines are dropped", lambda: fill_log(edge, client))
                lost = metric(edge, "edge_access_log_dropped_total")
                here.demand(rest(edge) < BUSY_MAX, "it spins")
                data = read_some(reader, RING_BYTES)  # all that waited
                asking.go_on(20)
                data += read_some(reader, 2000)  # and new lines
            torn = [text for text in data.decode().splitlines()[:-1] if text.count(HOST) != 1]
            here.demand(not torn, f"{len(torn)} torn lines: {torn[:2]}")
            line.clients = "nothing"
            line.operator = f"edge_access_log_dropped_total {lost:.0f}, then whole lines again"
            return line
    finally:
        os.close(reader)


class Piped(Running):
    """An instance whose standard output and error are one pipe that is full: its reader sleeps."""

    def start(self) -> None:
        self.reader, writer = os.pipe()
        os.set_blocking(writer, False)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writer, b"." * 4095 + b"\n")
        os.set_blocking(writer, True)
        self.folder.chmod(0o755)
        self.process = subprocess.Popen(self.command(), stdout=writer, stderr=writer, cwd=ROOT)
        os.close(writer)

    def close(self) -> None:
        super().close()
        os.close(self.reader)


def standard_output_blocked(folder: Path, loop: str) -> Line:
    """Nobody reads our standard output and error: lines are lost, whatever dies meanwhile comes back."""
    with scene("stdout, stderr blocked", folder, loop, Piped, access_log="-") as here:
        edge, line = here.edge, here.line
        assert isinstance(edge, Piped)
        with here.asking(inside_max=4) as asking:
            asking.go_on(50)
            for child in ("data_pid", "controller_pid"):
                old = edge.holder()[child]
                os.kill(int(old), 9)
                wait_for("another", lambda child=child, old=old: edge.holder()[child] not in ("0", old))
                asking.go_on(50)
            here.publish("b")
            wait_for("a change is served", lambda: edge.served("b.example") == 200)
            read_some(edge.reader, 1 << 16)
            edge.process.send_signal(signal.SIGHUP)  # reopens what it can
            os.kill(int(edge.holder()["data_pid"]), 9)
            wait_for("a line", lambda: "lines were lost" in read_some(edge.reader, 10).decode())
            asking.go_on(50)
        here.demand(edge.stop() == 0, "it did not stop with 0")
        line.clients = f"nothing but the data plane's deaths: {line.inside} inside"
        line.operator = "lines were lost, nobody read them"
        return line


def read_some(reader: int, count: int) -> bytes:
    """Read at least so many bytes of a pipe. Errors: AssertionError."""
    data = b""
    while len(data) < count:
        assert select.select([reader], [], [], 10)[0], f"{len(data)} of {count} bytes in the pipe"
        data += os.read(reader, 1 << 16)
    return data


def fill_log(edge: Running, client: Client) -> bool:
    """Make long lines; tell whether some did not fit."""
    for _ in range(50):
        assert client.ask(HOST, LONG_PATH).status == 200
    return metric(edge, "edge_access_log_dropped_total") > 20


def rest(edge: Running) -> float:
    """Return the part of a CPU that the log's thread uses for a moment of waiting."""
    pid = edge.pid("edge-data")
    tasks = Path(f"/proc/{pid}/task")
    log = next(task for task in tasks.iterdir() if (task / "comm").read_text().strip() == "edge-log")
    began, used = time.monotonic(), processor_time(log)
    wait_for("a while is over", lambda: time.monotonic() > began + 0.5)
    return (processor_time(log) - used) / (time.monotonic() - began)


def admin_port_taken(folder: Path, loop: str) -> Line:
    """Somebody else has the admin port when we start: clients are served, the admin API comes later."""
    port = processes.free_port()
    with contextlib.closing(socket.socket()) as squatter:
        squatter.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        squatter.bind(("127.0.0.1", port))
        squatter.listen()

        class Hidden(Running):
            def ready(self) -> bool:
                return self.served(HOST) == 200

        with scene("admin port taken", folder, loop, Hidden, admin=f"127.0.0.1:{port}") as here:
            edge = here.edge
            edge.admin_port = port
            with here.asking() as asking:
                wait_for("requests go on", lambda: asking.answers() > 50)
                squatter.close()
                wait_for("the admin API is there", lambda: Running.ready(edge))
            said = [text for text in edge.lines().splitlines() if "in use" in text]
            here.demand(len(said) == 1, f"it said {said!r}")
            here.line.clients = "nothing"
            here.line.operator = "".join(said)
            return here.line


def cpu_taken_away(folder: Path, loop: str) -> Line:
    """All threads of all our processes have one CPU left, then all again."""
    with scene("one CPU taken away", folder, loop) as here:
        whole = os.sched_getaffinity(0)
        edge = here.edge
        ours = [pid for pid in processes.descendants(edge.process.pid)]
        with here.asking() as asking:
            for cpus in ({min(whole)}, whole):
                for pid in ours:
                    processes.place(pid, cpus)
                asking.go_on(100)
            here.publish("b")
            wait_for("b is served", lambda: edge.served("b.example") == 200)
        here.demand(edge.holder()["watchdog_kills"] == "0", "the watchdog killed something")
        here.line.clients = "nothing"
        here.line.operator = "nothing"
        return here.line


def bpffs_missing(folder: Path, loop: str) -> Line:
    """There is no BPF file system, and we may not mount one: served without XDP, and it is said."""

    class Bare(Running):
        def command(self) -> list[str]:
            inside = 'umount --lazy /sys/fs/bpf; exec setpriv --bounding-set=-sys_admin "$@"'
            return ["unshare", "--mount", "sh", "-c", inside, "sh", *super().command()]

        def close(self) -> None:
            self.options["xdp"] = "off"  # there is nothing to detach
            super().close()

    with scene("bpffs not mounted", folder, loop, Bare, xdp="auto", interface=["lo"]) as here:
        edge = here.edge
        with here.asking() as asking:
            wait_for("requests go on", lambda: asking.answers() > 100)
        said = [text for text in edge.lines().splitlines() if "without XDP" in text or "BPF file" in text]
        here.demand(said, f"nothing is said: {edge.lines()}")
        here.demand(metric(edge, "edge_xdp_attached") == 0, "edge_xdp_attached is not 0")
        here.line.clients = "nothing"
        here.line.operator = "; ".join(said)
        return here.line


FAULTS: dict[str, Callable[[Path, str], Line]] = {
    one.__name__: one
    for one in (
        log_disk_full, state_disk_full, run_disk_full, descriptors_used_up, memory_used_up, log_pipe_blocked,
        standard_output_blocked, admin_port_taken, cpu_taken_away, bpffs_missing,
    )
} | INSIDE | KERNEL  # fmt: skip
