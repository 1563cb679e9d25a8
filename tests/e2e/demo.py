"""`make demo`: native XDP, the data plane and real pods in namespaces, shown step by step.

`python -m tests.e2e.demo [--once]`, as root. It makes the network (lab.py), copies
manifests/examples/demo, starts `edge run` in the node, and shows requests, a live change, a flood that XDP
drops, an explanation, and where to look. It stays until Ctrl-C (--once: ends by itself), removes all it
made, prints that list, and ends with 1 and one clear line when an expectation fails.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.packet.flood import Flood, syn
from bench.proxy import processes
from tests.e2e.lab import ADDRESS, ROOT, Lab, LabError, wait_for
from tests.fakes.client import Closed, ask

EDGE = Path(sys.executable).parent / "edge"
EXAMPLE = ROOT / "manifests" / "examples" / "demo"
PODS = ("web-1", "web-2", "cart-1")
ADMIN_PORT = 9901
HOST = "shop.example.com"
FLOOD_SOURCES = "198.19.66.0/24"
FLOOD_ASKED = 400_000
FLOOD_LEAST = 300_000
FLOOD_SECONDS = 4.0
GOOD_RATE = 500
GOOD_CONNECTIONS = 16

console = Console(highlight=False)


class Failed(Exception):
    """An expectation of the demo that did not hold; its text is the message."""


def expect(held: object, message: str) -> None:
    """Errors: Failed with the message unless it held."""
    if not held:
        raise Failed(message)


class Demo:
    """The steps, in order; each prints what it shows and checks it."""

    def __init__(self, lab: Lab, folder: Path) -> None:
        self.lab = lab
        self.folder = folder
        self.instance = f"demo-{os.getpid()}"
        self.config = folder / "config"
        self.log = folder / "edge.log"
        self.edge: subprocess.Popen[Any] | None = None

    # ---- Setting up --------------------------------------------------------------------------

    def start(self) -> None:
        """Start the pods and `edge run`, wait until it is ready."""
        for number, name in enumerate(PODS, 1):
            self.lab.start_pod(number, name)
        shutil.copytree(EXAMPLE, self.config)
        command: list[object] = [EDGE, "run", "--config", self.config, "--http", f"{ADDRESS}:80"]
        command += ["--admin", f"127.0.0.1:{ADMIN_PORT}", "--xdp", "native", "--instance", self.instance]
        command += ["--run-dir", self.folder / "run", "--state-dir", self.folder / "state"]
        command += ["--access-log", self.folder / "access.log", "--grace-period", 2]
        for interface in self.lab.interfaces():
            command += ["--interface", interface]
        self.lab.on_remove(f"XDP programs and BPF pins of instance {self.instance}", self.detach)
        with self.log.open("wb") as sink:
            self.edge = self.lab.start("node", "edge run", command, stdout=sink, stderr=sink)
        try:
            wait_for("edge is ready", self.ready, 30)
        except AssertionError as error:
            raise Failed(f"{error}; its log ends with:\n{self.log_end()}") from None
        console.print(
            f"Made: a node with native XDP on {' and '.join(self.lab.interfaces())}, two clients, "
            f"{len(PODS)} pods. Serving http://{ADDRESS} from {self.config}.",
            soft_wrap=True,
        )

    def log_end(self) -> str:
        """Return the last lines that edge wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-15:])

    def detach(self) -> None:
        """Remove what `edge run` leaves in the kernel on purpose."""
        with self.lab.inside("node"):
            done = subprocess.run(
                [EDGE, "detach", "--instance", self.instance], capture_output=True, text=True, cwd=ROOT
            )
        if done.returncode:
            raise LabError(f"edge detach: {done.stdout}{done.stderr}".strip())

    def ready(self) -> bool:
        """Tell whether edge says it serves; Failed when it ended."""
        assert self.edge is not None
        if self.edge.poll() is not None:
            raise Failed(f"edge run ended with {self.edge.returncode}:\n{self.log_end()}")
        try:
            with self.lab.inside("node"):
                return ask("127.0.0.1", ADMIN_PORT, "localhost", "/readyz", timeout=2).status == 200
        except (OSError, Closed):
            return False

    # ---- Asking ------------------------------------------------------------------------------

    def ask(self, host: str, path: str, client: str = "client1") -> tuple[int, str]:
        """Ask from a client; return the status and the pod that answered."""
        with self.lab.inside(client):
            answer = ask(ADDRESS, 80, host, path)
        return answer.status, answer.headers.get("x-endpoint", "-")

    def admin(self, path: str) -> Any:
        """Return what the admin API says, decoded."""
        with self.lab.inside("node"):
            answer = ask("127.0.0.1", ADMIN_PORT, "localhost", path)
        expect(answer.status == 200, f"admin {path}: status {answer.status}")
        return json.loads(answer.body)

    def good_load(self, seconds: float) -> subprocess.Popen[str]:
        """Start the good client: kept connections at a fixed rate from client2."""
        tool = processes.compile_tool("load")
        words = [tool, ADDRESS, 80, GOOD_CONNECTIONS, seconds, GOOD_RATE, HOST, "/who"]
        return self.lab.start("client2", "good client", words, stdout=subprocess.PIPE, text=True)

    # ---- Showing -----------------------------------------------------------------------------

    def show_requests(self) -> None:
        """Step 1: host and path choose the pods."""
        title("1", "Requests by host and path, and which pod answered")
        table = Table("host", "path", "status", "answered by", box=None, pad_edge=False)
        asked = [
            (HOST, "/", 200, {"web-1", "web-2"}),
            (HOST, "/", 200, {"web-1", "web-2"}),
            (HOST, "/cart", 200, {"cart-1"}),
            (HOST, "/cart/42", 200, {"cart-1"}),
            (HOST, "/cartoon", 200, {"web-1", "web-2"}),
            ("a.blog.example.com", "/", 200, {"web-1", "web-2"}),
            ("nowhere.example.com", "/", 404, {"-"}),
        ]
        seen = set()
        for host, path, wanted, pods in asked:
            status, pod = self.ask(host, path)
            table.add_row(host, path, str(status), pod)
            seen.add(pod)
            expect(status == wanted and pod in pods, f"{host}{path}: {status} by {pod}, not {wanted}")
        console.print(table)
        for _ in range(20):
            seen.add(self.ask(HOST, "/")[1])
        expect({"web-1", "web-2"} <= seen, f"round robin reached only {sorted(seen)}")

    def show_change(self) -> None:
        """Step 2: a route moves to other pods while requests run."""
        title("2", "A change of route, live: /cart goes to web, under 500 requests a second")
        load = self.good_load(3.0)
        path = self.config / "ingress.yaml"
        fresh = path.with_name(".ingress.new")
        before = path.read_text()
        version = self.admin("/snapshot").get("version")
        fresh.write_text(before.replace("name: cart, port", "name: web, port"))
        began = time.monotonic()
        fresh.rename(path)
        try:
            wait_for("the change", lambda: self.ask(HOST, "/cart")[1] != "cart-1", 5, 0.002)
        except AssertionError as error:
            raise Failed(str(error)) from None
        took = time.monotonic() - began
        console.print(
            f"/cart is now answered by {self.ask(HOST, '/cart')[1]}, {took * 1000:.0f} ms after the file "
            f"was renamed; version {version} became {self.admin('/snapshot').get('version')}."
        )
        result = self.finish(load)
        console.print(f"Meanwhile {describe(result)}")
        fresh.write_text(before)
        fresh.rename(path)
        try:
            wait_for("the change back", lambda: self.ask(HOST, "/cart")[1] == "cart-1", 5, 0.01)
        except AssertionError as error:
            raise Failed(str(error)) from None

    def finish(self, load: subprocess.Popen[str]) -> dict[str, Any]:
        """Wait for the good client; Failed unless every request was answered."""
        output, _ = load.communicate(timeout=60)
        expect(load.returncode == 0, "the good client could not run")
        result: dict[str, Any] = json.loads(output)
        failed = result["errors"] + result["closed"] + result["unanswered"]
        expect(failed == 0 and result["requests"], f"the good client was not served 100 %: {result}")
        return result

    def counters(self) -> dict[str, int]:
        """Return XDP's packet counters by reason."""
        return {reason: value["packets"] for reason, value in self.admin("/xdp")["counters"].items()}

    def show_flood(self) -> None:
        """Step 3: XDP drops a flood of client1 while client2 is served."""
        title("3", "A flood from client1 (denied sources), dropped in XDP; client2 goes on")
        frame = syn(self.lab.mac("node", "client1"), self.lab.mac("client1", "eth0"), ip_address(ADDRESS))
        flood = Flood(self.lab.name("client1"), "eth0", frame, FLOOD_SOURCES)
        try:
            before = self.counters()
            load = self.good_load(FLOOD_SECONDS + 1.5)
            results: list[int] = []

            def pour() -> None:
                results.append(flood.run(FLOOD_ASKED, FLOOD_SECONDS))

            thread = threading.Thread(target=pour)
            thread.start()
            fresh = 0
            while thread.is_alive():
                status, _pod = self.ask(HOST, "/who", "client2")
                expect(status == 200, f"a new connection of client2 got {status} during the flood")
                fresh += 1
                thread.join(0.05)
            result = self.finish(load)
            after = self.counters()
        finally:
            flood.close()
        expect(results, "the generator failed")
        change = {reason: after[reason] - before.get(reason, 0) for reason in after}
        table = Table("XDP says", "packets", box=None, pad_edge=False)
        table.columns[1].justify = "right"
        for reason, count in change.items():
            if count:
                table.add_row(reason, f"{count:,}")
        console.print(table)
        offered = change.get("offered", 0)
        passed = sum(count for reason, count in change.items() if reason.startswith("pass"))
        dropped = sum(count for reason, count in change.items() if reason.startswith("drop"))
        transmitted = sum(count for reason, count in change.items() if reason.startswith("transmit"))
        console.print(
            f"offered {offered:,} = passed {passed:,} + dropped {dropped:,} + transmitted {transmitted:,}"
        )
        rate = results[0] / FLOOD_SECONDS
        console.print(f"The flood: {results[0]:,} packets sent, {rate:,.0f} a second.")
        console.print(f"Client2: {describe(result)} And {fresh} of {fresh} new connections.")
        expect(offered == passed + dropped + transmitted, "counters do not add up")
        expect(rate >= FLOOD_LEAST, f"only {rate:,.0f} packets a second offered")
        expect(dropped >= results[0], f"only {dropped:,} of {results[0]:,} flood packets dropped")

    def show_explain(self) -> None:
        """Step 4: the matcher's own words."""
        title("4", "edge explain")
        words = ["explain", "GET", f"http://{HOST}/cart/42", "--config", str(self.config)]
        console.print(Text(f"$ .venv/bin/edge {' '.join(words)}", style="bold"), soft_wrap=True)
        done = subprocess.run([EDGE, *words], capture_output=True, text=True, cwd=ROOT)
        console.print(Text(done.stdout.rstrip()), soft_wrap=True)
        expect(done.returncode == 0, f"edge explain ended with {done.returncode}: {done.stderr}")
        expect("cart" in done.stdout, "edge explain does not name the route")

    def show_places(self) -> None:
        """Step 5: where to look."""
        title("5", "Where to look")
        pins = Path("/sys/fs/bpf/edge") / self.instance / "maps" / "a"
        maps = sorted(pins.glob("edge_c*"))
        enter = f"nsenter --net=/run/netns/{self.lab.name('node')}"
        lines = [f"{enter} curl -s 127.0.0.1:{ADMIN_PORT}{path}" for path in ("/readyz", "/metrics", "/xdp")]
        lines += [f"bpftool map dump pinned {path}" for path in maps if path.is_file()][:2]
        lines += [f"{enter} bpftool net"]
        lines += [
            f"nsenter --net=/run/netns/{self.lab.name('client1')} curl -sH 'Host: {HOST}' {ADDRESS}/cart"
        ]
        lines += [f"tail -f {self.folder / 'access.log'}", f"$EDITOR {self.config / 'ingress.yaml'}"]
        for line in lines:
            console.print(Text(f"  {line}"), soft_wrap=True)
        bpftool = shutil.which("bpftool") or shutil.which("bpftool", path="/usr/sbin:/sbin")
        if bpftool and (pins / "edge_control").exists():
            words = [bpftool, "map", "dump", "pinned", str(pins / "edge_control")]
            done = subprocess.run(words, capture_output=True, text=True)
            console.print(Text(f"$ {' '.join(words)}\n{done.stdout.strip()}"), soft_wrap=True)
            expect("commit" in done.stdout, "bpftool prints no field names")


def title(number: str, text: str) -> None:
    """Print the heading of a step."""
    console.print()
    console.rule(Text(f"{number}  {text}", style="bold"), align="left", characters="─")


def describe(result: dict[str, Any]) -> str:
    """Shape: one sentence about what the good client saw."""
    rate = result["requests"] / result["seconds"]
    return (
        f"{result['requests']:,} requests at {rate:,.0f} a second over {GOOD_CONNECTIONS} kept connections: "
        f"100 % answered, p50 {result['p50_us'] / 1000:.2f} ms, p99 {result['p99_us'] / 1000:.2f} ms."
    )


def show(lab: Lab, folder: Path, once: bool) -> None:
    """Run all steps, then wait for Ctrl-C unless once."""
    demo = Demo(lab, folder)
    demo.start()
    demo.show_requests()
    demo.show_change()
    demo.show_flood()
    demo.show_explain()
    demo.show_places()
    if not once:
        console.print("\nEverything stays up. Ctrl-C ends it and removes all of it.")
        assert demo.edge is not None
        while demo.edge.poll() is None:
            signal.sigtimedwait([], 1.0)
        raise Failed(f"edge run ended with {demo.edge.returncode}:\n{demo.log_end()}")


def main() -> int:
    """Make, show, remove; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.demo")
    parser.add_argument("--once", action="store_true", help="end by itself")
    arguments = parser.parse_args()
    if os.getuid() != 0:
        print("make demo: needs root (BPF, network namespaces)", file=sys.stderr)
        return 1
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    processes.compile_tool("load")
    status = 0
    lab = Lab(clients=2, pods=len(PODS))
    with tempfile.TemporaryDirectory(prefix="edge-demo-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            with lab:
                show(lab, folder, arguments.once)
        except KeyboardInterrupt:
            console.print("\nInterrupted.")
        except (Failed, LabError) as error:
            console.print(Text(f"\nThe demo failed: {error}", style="bold red"), soft_wrap=True)
            status = 1
    title("", "Removed, in this order")
    for line in [*lab.removed, f"folder {folder}"]:
        console.print(f"  {line}", soft_wrap=True)
    return status


if __name__ == "__main__":
    sys.exit(main())
