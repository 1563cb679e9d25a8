"""Peers with the same hosts and paths, told of each change as their controllers tell them.

Called by bench/config/publish.py. All serve from files: what a change needs is made before the clock starts,
as for us; the clock starts at the rename. nginx and HAProxy are then sent the signal that reloads, so that a
reload is what is measured. A controller need not reload HAProxy for a row of a map: it says it on the runtime
socket, measured as "haproxy-runtime". Envoy watches the file of its routes (xDS from files, as JSON; its
controllers speak gRPC); Caddy is given its file by its admin API, which is what `caddy reload` does. Envoy
and Caddy come from PyPI (bench/proxy/programs.py).
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

from bench.config.objects import Folder
from bench.proxy import processes
from bench.proxy.http1 import launch
from bench.proxy.programs import CADDY, ENVOY, fetched

SETTLE_S = 2.0  # after a start: HAProxy's master executes itself anew, and hears no signal meanwhile
LOST_S = 10.0
START_S = 120.0
SERVED_S = 60.0

NGINX = """\
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
  server_names_hash_max_size 131072; server_names_hash_bucket_size 128;
  server {{ listen 127.0.0.1:{port} default_server; return 404; }}
  include {folder}/upstreams.conf;
  include {folder}/hosts/*.conf;
}}
"""
NGINX_HOST = """\
server {{ listen 127.0.0.1:{port}; server_name {host};
  location = /a {{ proxy_pass http://{service}; }} location /a/ {{ proxy_pass http://{service}; }}
  location = {path} {{ proxy_pass http://{service}; }} location {path}/ {{ proxy_pass http://{service}; }}
  location / {{ return 404; }} }}
"""
HAPROXY = """\
global
  maxconn 1024
  nbthread 1
  stats socket {folder}/admin.sock level admin
defaults
  mode http
  timeout client 60s
  timeout server 60s
  timeout connect 5s
frontend all
  bind 127.0.0.1:{port}
  http-request set-var(req.service) base,map_beg({folder}/hosts.map)
  http-request return status 404 unless {{ var(req.service) -m found }}
  use_backend %[var(req.service)]
"""
_TYPE = "type.googleapis.com/envoy"


class Peer:
    """One running peer. A context manager; ends what it started."""

    name = ""
    program = ""

    def __init__(self, folder: Folder, work: Path) -> None:
        self.folder, self.work = folder, work / self.name
        self.port = processes.free_port()
        self.work.mkdir(parents=True)
        self.paths = {number: "/b" for number in range(folder.ingresses)}
        self.process: subprocess.Popen[bytes] | None = None

    @classmethod
    def found(cls) -> str | None:
        """The program to start, None when this machine cannot have it."""
        return cls.program

    @classmethod
    def version(cls) -> str:
        """What it says of itself."""
        words = [str(cls.found()), "version" if cls is Caddy else "-v" if cls is not Envoy else "--version"]
        said = subprocess.run(words, capture_output=True, text=True)
        number = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
        return number.group() if number else "?"

    def command(self) -> list[str]:
        """Write the configuration that it starts with; shape: how it is started."""
        raise NotImplementedError

    def prepare(self, number: int) -> tuple[Path, Path]:
        """Make what a changed host changes, unseen; shape: the rename that shows it."""
        raise NotImplementedError

    def tell(self) -> None:
        """Say that a file changed; nothing where the peer watches it."""

    def __enter__(self) -> Peer:
        process: subprocess.Popen[bytes] = launch(self.command(), self.work / "out")
        self.process = process
        deadline = time.monotonic() + START_S
        while self._ask(self.folder.host(self.folder.ingresses - 1), "/b") != 200:
            if process.poll() is not None or time.monotonic() > deadline:
                processes.stop(process)
                raise RuntimeError(f"{self.name}: {(self.work / 'out').read_text()[-2000:]}")
            time.sleep(0.01)
        time.sleep(SETTLE_S)
        return self

    def __exit__(self, *_reason: object) -> None:
        assert self.process is not None
        processes.stop(self.process)

    def fresh(self, place: str, text: str) -> tuple[Path, Path]:
        """Write a file beside its place; shape: the rename that puts it there."""
        fresh = self.work / "fresh"
        fresh.write_text(text)
        return fresh, self.work / place

    def put(self, place: str, text: str) -> None:
        """Replace a file by rename."""
        os.rename(*self.fresh(place, text))

    def services(self) -> list[str]:
        return [self.folder.service(number) for number in range(self.folder.services)]

    def lag_ms(self, number: int, path: str) -> float:
        """Change one host's second path; shape: from the rename to the first answer by it."""
        self.paths[number] = path
        change = self.prepare(number)
        if (status := self._ask(self.folder.host(number), path)) != 404:
            raise RuntimeError(f"{self.name}: {status} before the change")
        begin = time.monotonic()
        os.rename(*change)
        self.tell()
        again = begin + LOST_S
        while self._ask(self.folder.host(number), path) != 200:
            if time.monotonic() > begin + SERVED_S:
                raise RuntimeError(f"{self.name}: a change was never served")
            if time.monotonic() > again:  # a master that is executing itself anew loses signals
                self.tell()
                again += LOST_S
            time.sleep(0.0003)
        return 1000 * (time.monotonic() - begin)

    def _ask(self, host: str, path: str) -> int:
        # A fresh connection each time: a kept one stays with the process that is leaving.
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET", path, headers={"Host": host})
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()


class Nginx(Peer):
    """A file for each host, SIGHUP."""

    name = program = "nginx"

    def command(self) -> list[str]:
        (self.work / "hosts").mkdir()
        rows = [f"upstream {one} {{ server 127.0.0.1:{self.folder.port}; }}" for one in self.services()]
        self.put("upstreams.conf", "\n".join(rows))
        self.put("nginx.conf", NGINX.format(folder=self.work, port=self.port))
        for number in self.paths:
            os.rename(*self.prepare(number))
        return ["nginx", "-p", str(self.work), "-c", str(self.work / "nginx.conf"), "-g", "daemon off;"]

    def prepare(self, number: int) -> tuple[Path, Path]:
        text = NGINX_HOST.format(
            port=self.port,
            host=self.folder.host(number),
            service=self.folder.service(number),
            path=self.paths[number],
        )
        return self.fresh(f"hosts/{number:05}.conf", text)

    def tell(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)


class Haproxy(Peer):
    """One map of all hosts, SIGUSR2 to the master."""

    name = program = "haproxy"

    def command(self) -> list[str]:
        rows = [f"backend {one}\n  server pod 127.0.0.1:{self.folder.port}" for one in self.services()]
        self.put("haproxy.cfg", HAPROXY.format(folder=self.work, port=self.port) + "\n".join(rows) + "\n")
        os.rename(*self.prepare(0))
        return ["haproxy", "-W", "-f", str(self.work / "haproxy.cfg")]

    def prepare(self, number: int) -> tuple[Path, Path]:
        rows = (
            f"{self.folder.host(one)}{end} {self.folder.service(one)}"
            for one in self.paths
            for end in ("/a", self.paths[one])
        )
        return self.fresh("hosts.map", "\n".join(rows) + "\n")

    def tell(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGUSR2)


class HaproxyRuntime(Haproxy):
    """The same map, its rows changed by the runtime socket; the file is for the next reload."""

    name = "haproxy-runtime"

    def command(self) -> list[str]:
        self.served = dict(self.paths)
        return super().command()

    def prepare(self, number: int) -> tuple[Path, Path]:
        place, host = self.work / "hosts.map", self.folder.host(number)
        old, new = self.served[number], self.paths[number]
        self.served[number] = new
        added = f"add map {place} {host}{new} {self.folder.service(number)}"
        self.words = f"{added};del map {place} {host}{old}\n".encode()
        return super().prepare(number)

    def tell(self) -> None:
        with socket.socket(socket.AF_UNIX) as end:
            end.connect(str(self.work / "admin.sock"))
            end.sendall(self.words)
            said = b"".join(iter(lambda: end.recv(4096), b"")).strip()
        if said:
            raise RuntimeError(f"haproxy: {said!r}")


class Rows(Peer):
    """A peer whose routes are one JSON file: each host's part is kept, so that a change joins texts."""

    head = tail = place = ""

    def row(self, number: int) -> str:
        """A host's part of the file."""
        raise NotImplementedError

    def prepare(self, number: int) -> tuple[Path, Path]:
        self.rows[number] = self.row(number)
        self.text = self.head + ",\n".join(self.rows) + self.tail
        return self.fresh(self.place, self.text)

    def write_all(self) -> None:
        """Every host's part, then the file."""
        self.rows = [self.row(number) for number in self.paths]
        os.rename(*self.prepare(0))


class Envoy(Rows):
    """Routes, listener and clusters from files that it watches; a change moves a new file of routes there."""

    name = program = "envoy"
    place = "rds.json"

    @classmethod
    def found(cls) -> str | None:
        path = fetched(ENVOY, "envoy")
        return str(path) if path else None

    def command(self) -> list[str]:
        source = {"resource_api_version": "V3"}
        manager = {
            "@type": f"{_TYPE}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "all",
            "rds": {
                "route_config_name": "all",
                "config_source": {**source, "path_config_source": {"path": str(self.work / "rds.json")}},
            },
            "http_filters": [
                {
                    "name": "router",
                    "typed_config": {"@type": f"{_TYPE}.extensions.filters.http.router.v3.Router"},
                }
            ],
        }
        filters = [{"name": "http", "typed_config": manager}]
        listener = {
            "@type": f"{_TYPE}.config.listener.v3.Listener",
            "name": "all",
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": self.port}},
            "filter_chains": [{"filters": filters}],
        }
        self.put("lds.json", json.dumps({"resources": [listener]}))
        self.put("cds.json", json.dumps({"resources": [self._cluster(one) for one in self.services()]}))
        dynamic = {
            f"{kind}_config": {**source, "path_config_source": {"path": str(self.work / f"{kind}.json")}}
            for kind in ("lds", "cds")
        }
        node = {"id": "bench", "cluster": "bench"}
        self.put("bootstrap.json", json.dumps({"node": node, "dynamic_resources": dynamic}))
        self.head = (
            f'{{"resources": [{{"@type": "{_TYPE}.config.route.v3.RouteConfiguration", "name": "all", '
        )
        self.head += '"virtual_hosts": [\n'
        self.tail = "]}]}\n"
        self.write_all()
        quiet = ["--concurrency", "1", "-l", "error", "--disable-hot-restart"]
        return [str(self.found()), "-c", str(self.work / "bootstrap.json"), *quiet]

    def _cluster(self, service: str) -> dict[str, object]:
        address = {"socket_address": {"address": "127.0.0.1", "port_value": self.folder.port}}
        endpoints = [{"lb_endpoints": [{"endpoint": {"address": address}}]}]
        return {
            "@type": f"{_TYPE}.config.cluster.v3.Cluster",
            "name": service,
            "connect_timeout": "5s",
            "load_assignment": {"cluster_name": service, "endpoints": endpoints},
        }

    def row(self, number: int) -> str:
        target = {"cluster": self.folder.service(number)}
        routes = [
            {"match": {"path_separated_prefix": path}, "route": target} for path in ("/a", self.paths[number])
        ]
        host = self.folder.host(number)
        return json.dumps({"name": host, "domains": [host], "routes": routes})


class Caddy(Rows):
    """One file of all, handed to the admin API."""

    name = program = "caddy"
    place = "caddy.json"

    @classmethod
    def found(cls) -> str | None:
        path = fetched(CADDY, "caddy")
        return str(path) if path else None

    def command(self) -> list[str]:
        self.admin = processes.free_port()
        server = {"listen": [f"127.0.0.1:{self.port}"], "automatic_https": {"disable": True}}
        whole = {
            "admin": {"listen": f"127.0.0.1:{self.admin}", "config": {"persist": False}},
            "apps": {"http": {"servers": {"all": {**server, "routes": []}}}},
        }
        self.head, _, self.tail = json.dumps(whole).partition('"routes": [')
        self.head += '"routes": [\n'
        self.write_all()
        return [str(self.found()), "run", "--config", str(self.work / self.place)]

    def row(self, number: int) -> str:
        proxy = {"handler": "reverse_proxy", "upstreams": [{"dial": f"127.0.0.1:{self.folder.port}"}]}
        paths = [[path, f"{path}/*"] for path in ("/a", self.paths[number])]
        routes = [{"match": [{"path": one}], "handle": [proxy]} for one in paths]
        routes.append({"handle": [{"handler": "static_response", "status_code": 404}]})
        host = {"host": [self.folder.host(number)]}
        return json.dumps({"match": [host], "handle": [{"handler": "subroute", "routes": routes}]})

    def prepare(self, number: int) -> tuple[Path, Path]:
        change = super().prepare(number)
        self.whole = self.text.encode()
        return change

    def tell(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self.admin, timeout=SERVED_S)
        connection.request("POST", "/load", self.whole, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        said = answer.read()
        connection.close()
        if answer.status != 200:
            raise RuntimeError(f"caddy: {said!r}")


PEERS: tuple[type[Peer], ...] = (Nginx, Haproxy, HaproxyRuntime, Envoy, Caddy)
