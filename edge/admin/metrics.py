"""The /metrics page in Prometheus' text format.

Called by edge/admin/server.py. Labels are objects, never slots; every family has HELP and TYPE. Reads
counters, keeps none: requests = sum of outcomes + in flight, in every page (design page §3).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from edge.controller.view import ADMISSION_BOUNDS, View
from edge.dataplane.stats import CellTotals

STATUS = ("1xx", "2xx", "3xx", "4xx", "5xx")
_LANES = {  # field of the lane: name, type, help
    "requests": ("edge_requests_total", "counter", "Requests whose head was accepted."),
    "in_flight": ("edge_requests_in_flight", "gauge", "Requests that have not ended."),
    "connections": ("edge_connections_total", "counter", "Downstream connections accepted."),
    "connections_open": ("edge_connections_open", "gauge", "Downstream connections open."),
    "bytes_in": ("edge_downstream_read_bytes_total", "counter", "Bytes read from clients."),
    "bytes_out": ("edge_downstream_written_bytes_total", "counter", "Bytes written to clients."),
    "tls_handshakes": ("edge_tls_handshakes_total", "counter", "TLS handshakes completed."),
    "tls_errors": ("edge_tls_errors_total", "counter", "TLS handshakes and records that failed."),
    "log_lines": ("edge_access_log_lines_total", "counter", "Access log lines written."),
    "log_dropped": ("edge_access_log_dropped_total", "counter", "Access log lines dropped: blocked sink."),
    "accept_errors": ("edge_accept_errors_total", "counter", "Accepts refused for want of resources."),
    "connect_limits": ("edge_connect_limits_total", "counter", "Connections to endpoints: no descriptor."),
    "memory_errors": ("edge_memory_errors_total", "counter", "Exchanges and connections: no memory."),
    "tunnels": ("edge_tunnels_open", "gauge", "Connections that became tunnels."),
}
_COUNTS = {  # what the holder counts over the life of an instance
    "handovers": ("edge_handovers_total", "Holders that took over from a living one."),
    "adoptions": ("edge_adoptions_total", "Holders that adopted what a dead one left."),
    "upgrades": ("edge_upgrades_total", "Parts that were replaced by another version."),
    "watchdog_kills": (
        "edge_watchdog_kills_total",
        "Processes of ours that were killed as they stood still.",
    ),
}
_UPSTREAM = {
    "requests": ("edge_upstream_requests_total", "counter", "Requests sent to an upstream."),
    "in_flight": ("edge_upstream_in_flight", "gauge", "Requests open at an upstream."),
    "connects": ("edge_upstream_connects_total", "counter", "Connections opened to an upstream."),
    "connect_errors": ("edge_upstream_connect_errors_total", "counter", "Connections that failed."),
    "timeouts": (
        "edge_upstream_timeouts_total",
        "counter",
        "Requests that were not answered in time.",
    ),
    "resets": ("edge_upstream_resets_total", "counter", "Answers that an upstream broke off."),
    "retries": ("edge_upstream_retries_total", "counter", "Requests tried again."),
}


class Page:
    """Lines of one page, family by family."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def family(
        self, name: str, kind: str, text: str, samples: Iterable[tuple[Mapping[str, str], float]]
    ) -> None:
        """Add one family of samples."""
        self._lines += [f"# HELP {name} {text}", f"# TYPE {name} {kind}"]
        for labels, value in samples:
            self._lines.append(sample(name, labels, value))

    def add(self, line: str) -> None:
        """Add one sample to the family before it."""
        self._lines.append(line)

    def text(self) -> str:
        """Shape: the page."""
        return "\n".join(self._lines) + "\n"


def sample(name: str, labels: Mapping[str, str], value: float) -> str:
    """Shape: one line, label values escaped."""
    inside = ",".join(f'{key}="{_escape(text)}"' for key, text in labels.items())
    return f"{name}{{{inside}}} {value}" if inside else f"{name} {value}"


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def render(view: View) -> str:
    """Make the page of this moment."""
    page = Page()
    _lanes(page, view)
    _routes(page, view)
    _upstreams(page, view)
    _xdp(page, view)
    _controller(page, view)
    _state(page, view)
    _reporter(page, view)
    _admission(page, view)
    return page.text()


def _lanes(page: Page, view: View) -> None:
    totals = view.statistics.totals()
    for name, (metric, kind, text) in _LANES.items():
        page.family(metric, kind, text, [({}, totals.values[name])])
    text = "Workers that have not passed the top of their loop for 3 s."
    page.family("edge_workers_stalled", "gauge", text, [({}, totals.stalled)])
    page.family(
        "edge_request_outcomes_total",
        "counter",
        "How requests ended; requests = outcomes + in flight.",
        [({"outcome": name}, number) for name, number in totals.outcomes.items()],
    )
    page.family("edge_request_duration_seconds", "histogram", "Time to the end of the answer.", [])
    total = 0
    for index, number in enumerate(totals.latency):
        total += number
        bound = 2 ** (index + 1) / 1e6  # bucket i holds [2^i, 2^(i+1)) microseconds
        page.add(sample("edge_request_duration_seconds_bucket", {"le": f"{bound:g}"}, total))
    page.add(sample("edge_request_duration_seconds_bucket", {"le": "+Inf"}, total))
    page.add(sample("edge_request_duration_seconds_count", {}, total))


def _classes(
    rows: list[tuple[dict[str, str], CellTotals]],
) -> Iterable[tuple[dict[str, str], float]]:
    for labels, cells in rows:
        for index, name in enumerate(STATUS):
            if cells.status[index]:
                yield {**labels, "code": name}, cells.status[index]


def _routes(page: Page, view: View) -> None:
    rows: list[tuple[dict[str, str], CellTotals]] = []
    for placed in view.snapshot.routes if view.snapshot else ():
        key = placed.route.key
        labels = {
            "kind": key.kind,
            "namespace": key.namespace,
            "name": key.name,
            "host": key.host,
            "path": key.path,
            "path_type": key.path_type,
        }
        cells = view.statistics.route(placed.slot.index, placed.slot.generation)
        rows.append((labels, cells))
    page.family(
        "edge_route_requests_total",
        "counter",
        "Requests by route.",
        [(labels, cells.values["requests"]) for labels, cells in rows],
    )
    page.family("edge_route_responses_total", "counter", "Answers by route and status class.", _classes(rows))
    page.family(
        "edge_route_response_bytes_total",
        "counter",
        "Body bytes sent to clients by route.",
        [(labels, cells.values["bytes_out"]) for labels, cells in rows],
    )


def _upstreams(page: Page, view: View) -> None:
    rows: list[tuple[dict[str, str], CellTotals]] = []
    for key, placed in view.snapshot.upstreams.items() if view.snapshot else ():
        labels = {"namespace": key.namespace, "service": key.service, "port": key.port}
        cells = view.statistics.upstream(placed.slot.index, placed.slot.generation)
        rows.append((labels, cells))
    for name, (metric, kind, text) in _UPSTREAM.items():
        page.family(metric, kind, text, [(labels, cells.values[name]) for labels, cells in rows])
    page.family(
        "edge_upstream_responses_total", "counter", "Answers by upstream and status class.", _classes(rows)
    )


def _xdp(page: Page, view: View) -> None:
    shown = view.xdp_describe()
    on, off = shown.get("interfaces", {}), shown.get("without", {})
    page.family("edge_xdp_attached", "gauge", "1 where packets are policed by XDP.", [({}, int(bool(on)))])
    if not shown:
        return
    page.family(
        "edge_xdp_interface_attached",
        "gauge",
        "1 for an interface whose packets are policed, 0 for one that goes without.",
        [({"interface": name}, int(name in on)) for name in (*on, *off)],
    )
    page.family(
        "edge_xdp_packets_total",
        "counter",
        "Packets by what became of them; offered = all others.",
        [({"reason": reason}, pair["packets"]) for reason, pair in shown["counters"].items()],
    )
    heart = shown["dead_man"]
    page.family(
        "edge_xdp_heartbeat_age_seconds",
        "gauge",
        "Time since the last sign of life that XDP goes by.",
        [({"process": name}, age) for name, age in heart["ages"].items()],
    )
    page.family(
        "edge_xdp_stale",
        "gauge",
        "1 while packets to VIPs are passed or dropped unjudged, by an EdgePolicy's deadMan.",
        [({"action": heart["action"]}, int(heart["stale"]))],
    )


def _controller(page: Page, view: View) -> None:
    state = view.state
    page.family(
        "edge_version",
        "gauge",
        "Published versions.",
        [({"state": "committed"}, state.committed), ({"state": "serving"}, state.serving)],
    )
    page.family("edge_data_plane_up", "gauge", "1 while a data plane runs.", [({}, int(state.up))])
    counts = state.counts
    page.family(
        "edge_restarts_total",
        "counter",
        "Children that the holder started again.",
        [
            ({"process": "data"}, max(state.restarts, counts["data_restarts"])),
            ({"process": "controller"}, max(state.controller_starts - 1, counts["controller_restarts"])),
        ],
    )
    for name, (metric, text) in _COUNTS.items():
        page.family(metric, "counter", text, [({}, counts[name])])
    page.family(
        "edge_publishes_total",
        "counter",
        "Publishes of this controller by what was sent.",
        [({"kind": kind}, number) for kind, number in view.publishes.items()],
    )
    found: dict[str, int] = {"error": 0, "warning": 0}
    for diagnostic in view.findings:
        found[diagnostic.severity.value] += 1
    page.family(
        "edge_diagnostics",
        "gauge",
        "What is wrong with objects now.",
        [({"severity": severity}, number) for severity, number in found.items()],
    )


def _reporter(page: Page, view: View) -> None:
    """What the API server is told; nothing where objects come from a folder."""
    if view.reporter is None:
        return
    shown = view.reporter.describe()
    text = "1 while this instance writes status and events for all."
    page.family("edge_leader", "gauge", text, [({}, int(shown["leading"]))])
    text = "How often the leader was another, as its Lease has it."
    page.family("edge_leader_changes_total", "counter", text, [({}, shown["changes"])])
    page.family(
        "edge_status_writes_total",
        "counter",
        "Writes of status by this instance.",
        [({"result": result}, number) for result, number in shown["status"].items()],
    )
    page.family(
        "edge_api_waiting",
        "gauge",
        "Objects about which something is to be written.",
        [({"queue": queue}, number) for queue, number in shown["waiting"].items()],
    )
    page.family(
        "edge_events_written_total",
        "counter",
        "Events of objects written by this instance.",
        [({"reason": reason}, number) for reason, number in shown["events"].items()],
    )


def _state(page: Page, view: View) -> None:
    keeper = view.keeper
    page.family(
        "edge_state_age_seconds",
        "gauge",
        "Since the last-known-good state was written of a source that was there.",
        [({}, round(keeper.age_s, 3))] if keeper.written else [],
    )
    page.family(
        "edge_state_current",
        "gauge",
        "1 while the last-known-good state on disk is what was accepted last.",
        [({}, int(keeper.current))],
    )
    page.family(
        "edge_state_version", "gauge", "The version of the last-known-good state.", [({}, keeper.version)]
    )
    page.family(
        "edge_state_write_errors_total",
        "counter",
        "Writes of the last-known-good state that failed.",
        [({}, keeper.errors)],
    )
    page.family(
        "edge_source_lost_seconds",
        "gauge",
        "How long objects have been served whose source is away or empty; 0 while it is there.",
        [({}, round(view.lost_s, 3))],
    )


def _admission(page: Page, view: View) -> None:
    """Where the webhook serves; an instance without one has none of these."""
    done = view.admission
    if not done.certificate_ends:
        return
    page.family(
        "edge_admission_reviews_total",
        "counter",
        "Objects that the admission webhook was asked about; passed: not ours to judge.",
        [({"kind": kind, "verdict": verdict}, number) for (kind, verdict), number in done.reviews.items()],
    )
    page.family(
        "edge_admission_errors_total",
        "counter",
        "Calls of the webhook that were answered with an error, by status.",
        [({"code": str(status)}, number) for status, number in done.errors.items()],
    )
    name = "edge_admission_duration_seconds"
    page.family(name, "histogram", "Time from a review to its answer.", [])
    total = 0
    for bound in ADMISSION_BOUNDS:
        total += done.seconds[bound]
        shown = "+Inf" if bound == float("inf") else f"{bound:g}"
        page.add(sample(f"{name}_bucket", {"le": shown}, total))
    page.add(sample(f"{name}_sum", {}, done.seconds_sum))
    page.add(sample(f"{name}_count", {}, total))
    page.family(
        "edge_admission_certificate_end_seconds",
        "gauge",
        "When the certificate that the webhook serves ends, in seconds since 1970.",
        [({}, done.certificate_ends)],
    )
