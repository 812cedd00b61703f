"""The text a Prometheus scrape reads, in its own format or OpenMetrics.

Source: Prometheus text exposition format 0.0.4; OpenMetrics 1.0.0.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf

from shm.cells import HistogramValue, Series, SeriesKind
from sidecar.telemetry import genai, metrics
from sidecar.telemetry.native import Forms, Mode

TEXT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"

_KIND_NAMES = {
    SeriesKind.COUNTER: "counter",
    SeriesKind.REAL_COUNTER: "counter",
    SeriesKind.GAUGE: "gauge",
    SeriesKind.HISTOGRAM: "histogram",
}
BOUNDS = (
    *(metrics.HTTP_SECONDS, metrics.PROCESSING_SECONDS, metrics.CONNECT_SECONDS),
    *(metrics.LAG_SECONDS, genai.TOKENS, genai.SECONDS),
    *(genai.FIRST_TOKEN_SECONDS, genai.PER_TOKEN_SECONDS),
)
"""Of all histograms."""
HELP = {
    "agentgateway_build_info": "The version that runs, as a label.",
    "agentgateway_config_revision": "Generation of the configuration in force.",
    "agentgateway_config_synchronized": "1 when the latest configuration was applied, else 0.",
    "agentgateway_downstream_connections_total": "Connections accepted.",
    "agentgateway_downstream_received_bytes_total": "Bytes received from clients.",
    "agentgateway_downstream_sent_bytes_total": "Bytes sent to clients.",
    "agentgateway_event_loop_lag_seconds": "How late a worker's timers came.",
    "agentgateway_request_duration_seconds": "Time from a request's head to its response's end.",
    "agentgateway_request_processing_seconds": "Time spent on a request before the upstream call.",
    "agentgateway_requests_in_flight": "Requests not yet finished.",
    "agentgateway_requests_total": "Requests finished.",
    "agentgateway_response_bytes_total": "Bytes of response bodies.",
    "agentgateway_response_processing_seconds": "Time spent on a response.",
    "agentgateway_retries_total": "Calls made again.",
    "agentgateway_shm_damaged_total": "Slots found damaged and given up.",
    "agentgateway_shm_evictions_total": "Slots freed for others, for they told nothing any more.",
    "agentgateway_budget_journal_rows_total": "Budgets written to the journal.",
    "agentgateway_budget_journal_failures_total": "Times the journal could not be written.",
    "agentgateway_shm_lock_timeouts_total": "Times a lock of a shared table was given up.",
    "agentgateway_shm_lock_waits_total": "Times a lock of a shared table was not free at once.",
    "agentgateway_shm_refusals_total": "New keys refused because a shared table was full.",
    "agentgateway_shm_repairs_total": "Locks taken over from a process that died holding them.",
    "agentgateway_shm_size_bytes": "Size of a shared-memory table.",
    "agentgateway_shm_slots": "Slots of a shared-memory table.",
    "agentgateway_shm_slots_used": "Slots of a shared-memory table in use.",
    "agentgateway_telemetry_dropped_total": "Log lines and spans that could not be delivered.",
    "agentgateway_tls_handshake_duration_seconds": "Time of downstream TLS handshakes.",
    "agentgateway_upstream_call_duration_seconds": "Time of calls to upstreams and services.",
    "agentgateway_upstream_connect_duration_seconds": "Time to connect to upstreams.",
    "agentgateway_worker_up": "1 while a worker runs.",
}


def forms_of(mode: Mode) -> Forms:
    """What is shown of histograms, by `config.histograms`."""
    return Forms(mode, BOUNDS)


CLASSIC = forms_of("classic")


def wants_openmetrics(accept: str) -> bool:
    """Whether an `Accept` header prefers OpenMetrics to plain text (RFC 9110 section 12.5.1)."""
    open_quality = plain_quality = -1.0
    for part in accept.lower().split(","):
        kind, *parameters = (item.strip() for item in part.split(";"))
        quality = quality_of(parameters)
        if kind == "application/openmetrics-text":
            open_quality = max(open_quality, quality)
        elif kind in ("text/plain", "text/*", "*/*"):
            plain_quality = max(plain_quality, quality)
    return open_quality > 0 and open_quality >= plain_quality


def quality_of(parameters: list[str]) -> float:
    """The `q` among a media range's parameters, 0 to 1."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0


def exposition(
    series: Iterable[Series], *, openmetrics: bool = False, forms: Forms = CLASSIC
) -> bytes:
    """Every series, those of a metric together and under one TYPE line, sorted by name."""
    families: dict[str, list[tuple[str, Series]]] = {}
    for one in series:
        name, labels = _parsed(one.key)
        if one.kind in _KIND_NAMES:
            families.setdefault(name, []).append((labels, one))
    lines: list[str] = []
    for name, members in sorted(families.items()):
        lines += _family(name, members, openmetrics, forms)
    if openmetrics:
        lines.append("# EOF")
    return ("\n".join(lines) + "\n").encode() if lines else b"\n"


def _family(
    name: str, members: list[tuple[str, Series]], openmetrics: bool, forms: Forms
) -> Iterator[str]:
    kind = _KIND_NAMES[members[0][1].kind]
    family, sample = name, name
    if openmetrics and kind == "counter":
        # There the metric's name lacks the suffix and its samples must have it.
        family = name.removesuffix("_total")
        sample = family + "_total"
    if name in HELP:
        yield f"# HELP {family} {HELP[name]}"
    yield f"# TYPE {family} {kind}"
    for labels, one in sorted(members, key=lambda member: member[0]):
        if isinstance(one.value, HistogramValue):
            yield from _histogram(name, labels, forms.classic(one.value))
        else:
            yield f"{sample}{_braced(labels)} {_number(one.value)}"


def _histogram(name: str, labels: str, value: HistogramValue) -> Iterator[str]:
    comma = "," if labels else ""
    count = 0
    for bound, bucket in zip((*value.bounds, inf), value.buckets, strict=True):
        count += bucket
        yield f'{name}_bucket{{{labels}{comma}le="{_bound(bound)}"}} {count}'
    yield f"{name}_sum{_braced(labels)} {_number(value.total)}"
    yield f"{name}_count{_braced(labels)} {count}"


def _parsed(key: bytes) -> tuple[str, str]:
    """`(name, labels)`, the labels written out: `a="x",b="y"`."""
    name, *pairs = key.decode("utf-8", "replace").split("\0")
    written = []
    for pair in pairs:
        label, _, value = pair.partition("=")
        written.append(f'{label}="{_escaped(value)}"')
    return name, ",".join(written)


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _braced(labels: str) -> str:
    return f"{{{labels}}}" if labels else ""


def _bound(value: float) -> str:
    return "+Inf" if value == inf else repr(float(value))


def _number(value: float) -> str:
    if isinstance(value, int):
        return str(value)
    if value == inf:
        return "+Inf"
    if value == -inf:
        return "-Inf"
    if value != value:
        return "NaN"
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
