"""A collector of OTLP, as `tracing` and `accessLog.otlp` name it, and what sends there.

Source: OpenTelemetry protocol 1.x (OTLP/gRPC, OTLP/HTTP); spec/config.md section 9.3.
"""

from __future__ import annotations

import enum
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import IO, Any, Final, Literal, Protocol, final

from sidecar.errors import ConfigError

Signal = Literal["traces", "logs"]
_EXPORT_SECONDS = 10.0
_BACKEND_KEYS = ("host", "service", "backend")


@final
@dataclass(frozen=True, slots=True)
class OtlpTarget:
    """Where spans go. `address` is `host:port`; `path` counts for HTTP alone."""

    address: str
    protocol: str = "grpc"
    path: str = "/v1/traces"
    has_tls: bool = False
    root_pem: str = ""
    """Roots to trust, PEM; the system's when empty."""
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @classmethod
    def of_policy(
        cls,
        policy: Mapping[str, object],
        path: str,
        *,
        address: str | None = None,
        signal: Signal = "traces",
    ) -> OtlpTarget:
        """The target of `tracing` or `accessLog.otlp`. `address`: of the service or backend, if
        that is named.

        Raises: ConfigError for what cannot be honoured.
        """
        host = policy.get("host")
        if address is None and not isinstance(host, str):
            named = next((k for k in _BACKEND_KEYS if policy.get(k) is not None), "host")
            raise ConfigError(f"{path}.{named}", f"has no address to send {signal} to")
        protocol = policy.get("protocol", "grpc")
        if protocol not in ("grpc", "http"):
            raise ConfigError(f"{path}.protocol", "must be grpc or http")
        where = str(policy.get("path") or f"/v1/{signal}")
        if not where.startswith("/"):
            raise ConfigError(f"{path}.path", "must begin with /")
        has_tls, root, headers = _connection(policy.get("policies"), f"{path}.policies")
        return cls(address or str(host), str(protocol), where, has_tls, root, headers)

    def exporter(self, signal: Signal = "traces") -> Any:
        """The class that sends there, of a library that is imported here: 0.1 s, which no record
        is to wait for, so ask for it in time (see gateway.parts)."""
        return _EXPORTERS[signal, self.protocol]()

    def open(self, signal: Signal = "traces") -> tuple[Exporter, list[IO[str]]]:
        """An exporter, and the files it needs for as long as it lives."""
        make = self.exporter(signal)
        scheme = "https" if self.has_tls else "http"
        url = f"{scheme}://{self.address}"
        if self.protocol == "grpc":
            import grpc

            roots = self.root_pem.encode() or None
            credentials = grpc.ssl_channel_credentials(roots) if self.has_tls else None
            headers = [(name.lower(), value) for name, value in self.headers]
            return make(
                endpoint=url,
                insecure=not self.has_tls,
                credentials=credentials,
                headers=headers,
                timeout=_EXPORT_SECONDS,
            ), []
        files: list[IO[str]] = []
        if self.root_pem:
            # The HTTP client takes roots from a file alone.
            files.append(tempfile.NamedTemporaryFile("w", suffix=".pem"))  # noqa: SIM115 (kept open)
            files[0].write(self.root_pem)
            files[0].flush()
        return make(
            endpoint=url + self.path,
            certificate_file=files[0].name if files else None,
            headers=dict(self.headers),
            timeout=_EXPORT_SECONDS,
        ), files


class Exporter(Protocol):
    """What the SDK's exporters of all signals have in common."""

    def export(self, batch: Sequence[Any], /) -> enum.Enum:
        """Send; SUCCESS or FAILURE."""

    def shutdown(self) -> None:
        """Give up what is being tried."""


def _spans_by_grpc() -> Any:
    from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter


def _spans_by_http() -> Any:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    import_module(_HTTP_CLIENT)
    return OTLPSpanExporter


def _logs_by_grpc() -> Any:
    from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter

    return OTLPLogExporter


def _logs_by_http() -> Any:
    from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter

    import_module(_HTTP_CLIENT)
    return OTLPLogExporter


_HTTP_CLIENT: Final = "requests"
"""What the exporters over HTTP load when they are made, which is when the first record waits."""
_EXPORTERS: Final[Mapping[tuple[Signal, str], Callable[[], Any]]] = {
    ("traces", "grpc"): _spans_by_grpc,
    ("traces", "http"): _spans_by_http,
    ("logs", "grpc"): _logs_by_grpc,
    ("logs", "http"): _logs_by_http,
}


def _connection(policies: object, path: str) -> tuple[bool, str, tuple[tuple[str, str], ...]]:
    """`(TLS, roots, headers)` of a backend reference's policies. Raises: ConfigError."""
    has_tls, root = False, ""
    headers: tuple[tuple[str, str], ...] = ()
    for key, value in (policies if isinstance(policies, Mapping) else {}).items():
        if value is None:
            continue
        if key == "backendTLS" and isinstance(value, Mapping):
            _only(value, ("root",), f"{path}.backendTLS")
            has_tls, root = True, str(value.get("root") or "")
        elif key == "requestHeaderModifier" and isinstance(value, Mapping):
            _only(value, ("set", "add"), f"{path}.requestHeaderModifier")
            pairs = [dict(value.get(k) or {}) for k in ("set", "add")]
            headers = tuple((str(k), str(v)) for pair in pairs for k, v in pair.items())
        else:
            raise ConfigError(f"{path}.{key}", "not supported yet (policy of a collector)")
    return has_tls, root, headers


def _only(value: Mapping[object, object], keys: tuple[str, ...], path: str) -> None:
    for key, item in value.items():
        if key not in keys and item is not None:
            raise ConfigError(f"{path}.{key}", "not supported yet (policy of a collector)")
