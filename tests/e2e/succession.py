"""An instance on loopback over all its holders, under traffic: for the stories of hand-over and upgrade.

Used by test_handover.py and test_upgrade.py. The traffic is the survival program's client (kept and new
connections, echoes, a download a second, a tunnel), slowly; XDP is off, which is the survival program's part.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bench.proxy import processes
from edge.messages import Message, receive, send
from tests.e2e.lab import ROOT, end, wait_for
from tests.e2e.objects import endpoints, ingress, service, write
from tests.e2e.running import pod
from tests.e2e.survival.stage import FAST_BODY, Instance, process_state
from tests.e2e.survival.traffic import HOST, Client, Seen

RATES = (200, 100, 20)  # requests a second: kept, fresh, echo


class Succession(Instance):
    """One instance; whatever writes to its log is one of its processes, whoever started it."""

    def processes(self) -> dict[int, str]:
        """Return the living processes, with their names."""
        found = {}
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError, ValueError):
                pid = int(name)
                if os.readlink(f"/proc/{pid}/fd/2") == str(self.log) and process_state(pid) not in "ZX":
                    found[pid] = processes.command_name(pid)
        return found

    def named(self, name: str) -> list[int]:
        """Return the living processes of a name."""
        return [pid for pid, found in self.processes().items() if found == name]

    def kill(self, *pids: int) -> None:
        """Kill processes and wait until they are gone."""
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        wait_for("they are gone", lambda: self.ended(*pids), 10)
        if self.process.pid in pids:
            self.process.wait(10)

    def ended(self, *pids: int) -> bool:
        """Tell whether all of them are gone; ours is waited for."""
        self.process.poll()
        return all(process_state(pid) in "ZX" for pid in pids)

    def kill_holder(self) -> None:
        """Kill the holder."""
        self.kill(int(self.holder()["pid"]))

    def take_over(self, **options: object) -> None:
        """Start a successor, and wait until the old holder has left with 0."""
        old = self.process
        self.options |= {"take_over": True, **options}
        self.start()
        wait_for("it is the holder", lambda: self.is_holder(), 20)
        assert old.wait(20) == 0, self.lines()[-2000:]
        self.wait_well()

    def is_holder(self) -> bool:
        """Tell whether the process that was started last is the holder."""
        assert self.process.poll() is None, self.lines()[-2000:]
        return self.status().get("pid") == str(self.process.pid)

    def talk(self, verb: str, **fields: object) -> Iterator[Message]:
        """Ask the holder, and yield what it says until it is done with the question."""
        path = Path(str(self.options["run_dir"])) / self.name / "control.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as control:
            control.settimeout(60)
            control.connect(str(path))
            send(control, verb, **fields)
            while (message := receive(control)) is not None:
                message.close()
                yield message
                if message.verb not in ("step", "event", "holding"):
                    return

    def descriptors(self) -> dict[str, Counter[str]]:
        """Return what each process has open, by kind, of connections nothing: who asks may still be there."""
        result: dict[str, Counter[str]] = {}
        for pid, name in self.processes().items():
            counter: Counter[str] = Counter()
            for number in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    link = os.readlink(f"/proc/{pid}/fd/{number}")
                    counter[link if link.startswith("anon_inode") else link.partition("[")[0]] += 1
            del counter["socket:"]
            result[name] = counter
        return result

    def sockets_at_rest(self, name: str) -> int:
        """Return how many sockets the one process of a name has; call it where nobody connects."""
        (pid,) = self.named(name)
        links = []
        for number in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"/proc/{pid}/fd/{number}"))
        return sum(link.startswith("socket:") for link in links)

    def route(self, name: str) -> None:
        """Publish another route: NAME.example."""
        objects = ingress(name, [(f"{name}.example", "/", "checked")])
        write(Path(str(self.options["config"])), f"{name}.yaml", objects)

    def serves(self, name: str, seconds: float = 15) -> None:
        """Wait until NAME.example is served."""
        wait_for(f"{name}.example is served", lambda: self.served(f"{name}.example") == 200, seconds)


@contextlib.contextmanager
def succession(folder: Path, kind: type[Succession] = Succession, **options: object) -> Iterator[Succession]:
    """Run upstreams and an instance on loopback."""
    config = folder / "config"
    config.mkdir()
    with contextlib.ExitStack() as stack:
        fast = processes.free_port()
        words = [processes.compile_tool("origin"), "127.0.0.1", fast, FAST_BODY, 600]
        stack.callback(end, subprocess.Popen([str(word) for word in words], cwd=ROOT))
        for name, port in (("fast", fast), ("checked", stack.enter_context(pod("checked")))):
            write(config, f"{name}.yaml", service(name), endpoints(name, port))
        checked = [(HOST, path, "checked") for path in ("/echo", "/bytes", "/tunnel")]
        write(config, "web.yaml", ingress("web", [(HOST, "/", "fast"), *checked]))
        given = {"workers": 2, "grace_period": 2, **options}
        yield stack.enter_context(kind(folder, config, **given))


@contextlib.contextmanager
def traffic(edge: Succession) -> Iterator[list[Seen]]:
    """Ask all the time; what was seen is in the list at the end."""
    found: list[Seen] = []
    with Client(None, edge.address, edge.port, rates=RATES) as client:
        client.wait_ready()
        yield found
        found.append(client.finish())


def nothing_failed(seen: list[Seen], *, tunnel_may_end: bool = False) -> None:
    """Assert that clients have noticed nothing."""
    (one,) = seen
    events = [event for event in one.events if not (tunnel_may_end and event.kind == "tunnel")]
    assert not events, "\n".join(event.describe() for event in events[:10])
    assert not one.refused
    assert one.requests
