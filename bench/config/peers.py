"""nginx and HAProxy with the same hosts and paths, reloaded for each change, as their controllers do it.

Called by bench/config/publish.py. Both serve from files: a change writes its file and sends the signal that
reloads. Neither is told anything that its manual does not recommend for so many names.
"""

from __future__ import annotations

import http.client
import os
import signal
import subprocess
import time
from pathlib import Path

from bench.config.objects import Folder
from bench.proxy import processes
from bench.proxy.http1 import launch

SETTLE_S = 2.0  # after a start: HAProxy's master executes itself anew, and hears no signal meanwhile
LOST_S = 10.0

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
  stats socket {folder}/admin.sock
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


class Peer:
    """One running peer. A context manager; ends what it started."""

    def __init__(self, name: str, folder: Folder, work: Path) -> None:
        self.name, self.folder, self.work = name, folder, work / name
        self.port = processes.free_port()
        (self.work / "hosts").mkdir(parents=True)
        self.paths = {number: "/b" for number in range(folder.ingresses)}
        backends = [folder.service(number) for number in range(folder.services)]
        if name == "nginx":
            rows = [f"upstream {one} {{ server 127.0.0.1:{folder.port}; }}" for one in backends]
            (self.work / "upstreams.conf").write_text("\n".join(rows))
            (self.work / "nginx.conf").write_text(NGINX.format(folder=self.work, port=self.port))
            for number in self.paths:
                self._write(number)
            self.command = [
                "nginx",
                "-p",
                str(self.work),
                "-c",
                str(self.work / "nginx.conf"),
                "-g",
                "daemon off;",
            ]
        else:
            rows = [f"backend {one}\n  server pod 127.0.0.1:{folder.port}" for one in backends]
            text = HAPROXY.format(folder=self.work, port=self.port) + "\n".join(rows) + "\n"
            (self.work / "haproxy.cfg").write_text(text)
            self._write(0)
            self.command = ["haproxy", "-W", "-f", str(self.work / "haproxy.cfg")]
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Peer:
        self.process = launch(self.command, self.work / "out")
        processes.wait_port(self.port, self.process, 60)
        time.sleep(SETTLE_S)
        return self

    def __exit__(self, *_reason: object) -> None:
        assert self.process is not None
        processes.stop(self.process)

    def _write(self, number: int) -> None:
        folder = self.folder
        if self.name == "nginx":
            text = NGINX_HOST.format(
                port=self.port,
                host=folder.host(number),
                service=folder.service(number),
                path=self.paths[number],
            )
            place = self.work / "hosts" / f"{number:05}.conf"
        else:
            rows = (
                f"{folder.host(one)}{end} {folder.service(one)}"
                for one in self.paths
                for end in ("/a", self.paths[one])
            )
            text, place = "\n".join(rows) + "\n", self.work / "hosts.map"
        fresh = self.work / "fresh"
        fresh.write_text(text)
        os.rename(fresh, place)

    def lag_ms(self, number: int, path: str) -> float:
        """Change one host's second path; shape: from the write to the first answer by it."""
        assert self.process is not None
        self.paths[number] = path
        begin = time.monotonic()
        self._write(number)
        reload = signal.SIGHUP if self.name == "nginx" else signal.SIGUSR2
        self.process.send_signal(reload)
        again = begin + LOST_S
        while self._ask(self.folder.host(number), path) != 200:
            if time.monotonic() > begin + 60:
                raise RuntimeError(f"{self.name}: a change was never served")
            if time.monotonic() > again:  # a master that is executing itself anew loses signals
                self.process.send_signal(reload)
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
