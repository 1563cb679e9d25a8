"""Changes that users make to what is served: certificates, names outside of the cluster, classes."""

from __future__ import annotations

import base64
import contextlib
import datetime
import ssl
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address

from edge.controller.default_certificate import make_default_certificate
from tests.e2e.lab import wait_for
from tests.edge.controller.test_names import dns_server
from tests.kube.api import Object
from tests.kube.cluster import Cluster
from tests.kube.installed import Installed
from tests.kube.network import CLIENT
from tests.kube.traffic import Load, judge, plain
from tests.kube.workload import deployment, ingress, service
from tests.manifests.written import written


def tls_secret(name: str, place: str) -> tuple[Object, bytes]:
    """Shape: a Secret with a certificate of its own, and that certificate as DER."""
    chain, key = make_default_certificate(datetime.datetime.now(datetime.UTC))
    data = {"tls.crt": base64.b64encode(chain).decode(), "tls.key": base64.b64encode(key).decode()}
    meta = {"name": name, "namespace": place}
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "kubernetes.io/tls",
        "metadata": meta,
        "data": data,
    }
    return secret, ssl.PEM_cert_to_DER_cert(chain.decode())


def web(kube: Cluster, place: str) -> None:
    """Have a Service `web` with one Pod."""
    kube.api.apply([deployment("web", place), service("web", place)])
    kube.ready_pods(place, "app=web", 1)


def test_a_tls_secret_is_rotated_under_load(kube: Cluster, edge: Installed, place: str) -> None:
    web(kube, place)
    host = "tls.example"
    first, shown = tls_secret("cert", place)
    secured = ingress("secured", host, "web", place)
    secured["spec"]["tls"] = [{"hosts": [host], "secretName": "cert"}]
    kube.api.apply([first, secured])

    def shows(wanted: bytes) -> None:
        for node in kube.nodes:
            wait_for(
                f"{node.name} shows it", lambda node=node: edge.certificate(node, host) == wanted, 20, 0.02
            )

    shows(shown)
    edge.everywhere(host, 308)
    for node in kube.nodes:
        assert edge.status(node, host, tls=True) == 200
    kube.api.apply(
        [plain("load", place, 1), service("load", place), ingress("load", "a.example.com", "load", place)]
    )
    kube.ready_pods(place, "app=load", 1)
    edge.everywhere("a.example.com")
    with Load(kube, rates=(70, 28, 2)) as load:
        for _ in range(3):
            fresh, shown = tls_secret("cert", place)
            kube.api.apply([fresh])
            shows(shown)
        kube.api.delete([fresh])
        for node in kube.nodes:
            wait_for("it is gone", lambda node=node: edge.certificate(node, host) != shown, 20)
            assert edge.status(node, host) == 308, "what is gone does not turn encryption off"
        assert not (wrong := judge(load, load.finish())), wrong


def test_a_class_is_changed(kube: Cluster, edge: Installed, place: str) -> None:
    host = "class.example"
    web(kube, place)
    for name, status in (("edge", 200), ("another", 404), ("edge", 200)):
        kube.api.apply([ingress("classy", host, "web", place, class_name=name)])
        edge.everywhere(host, status)


def test_a_class_names_its_settings(kube: Cluster, edge: Installed, place: str) -> None:
    """The example as it is shipped, with what a client sees at once."""
    host = "settings.example"
    web(kube, place)
    kube.api.apply([ingress("settled", host, "web", place)])
    edge.everywhere(host)
    given = sorted(written("examples/class"), key=lambda one: one["kind"] == "IngressClass")  # it comes last
    (config_map,) = (one for one in given if one["kind"] == "ConfigMap")
    try:
        kube.api.apply(given)
        for text, status in (("true", 308), ("false", 200), ("true", 308)):
            kube.api.apply([config_map | {"data": {"force-ssl-redirect": text}}])
            edge.everywhere(host, status)
    finally:
        kube.kubectl("patch", "ingressclass", "edge", "--type=merge", "-p", '{"spec": {"parameters": null}}')
    edge.everywhere(host)


class Outside(BaseHTTPRequestHandler):
    """A site that is no Pod."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "7")
        self.end_headers()
        self.wfile.write(b"outside")

    def log_message(self, *_words: object) -> None:
        """Say nothing."""


@contextlib.contextmanager
def site(kube: Cluster) -> Iterator[int]:
    with kube.on("client"):
        server = ThreadingHTTPServer((CLIENT, 0), Outside)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_name_outside_of_the_cluster(kube: Cluster, edge: Installed, place: str) -> None:
    records = {("outside.test", 1): [ip_address(CLIENT).packed]}
    with contextlib.ExitStack() as stack:
        port = stack.enter_context(site(kube))
        with kube.on("client"):
            stack.enter_context(dns_server(records, ttl=1, at=(CLIENT, 53)))
        external: Object = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "outside", "namespace": place},
            "spec": {
                "type": "ExternalName",
                "externalName": "outside.test",
                "ports": [{"name": "http", "port": 80, "targetPort": port}],
            },
        }
        kube.api.apply([external, ingress("outside", "outside.example", "outside", place)])
        edge.everywhere("outside.example")
        for node in kube.nodes:
            assert edge.ask(node, "outside.example").body == b"outside"
