"""OTLP collectors on loopback: what a real one would receive, over both protocols."""

from __future__ import annotations

import queue
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as log_messages
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2_grpc as log_services
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as messages
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as services

_Spans = messages.ExportTraceServiceRequest


class _Logs(log_services.LogsServiceServicer):
    def __init__(self, received: queue.Queue) -> None:
        self._received = received

    def Export(self, request, context):  # noqa: N802 (named by the protocol)
        self._received.put((request, dict(context.invocation_metadata())))
        return log_messages.ExportLogsServiceResponse()


class GrpcCollector(services.TraceServiceServicer):
    """`received`: requests with spans; `logs`: with log records. Each with its metadata."""

    def __init__(self, credentials: grpc.ServerCredentials | None = None) -> None:
        self.received: queue.Queue = queue.Queue()
        self.logs: queue.Queue = queue.Queue()
        self._server = grpc.server(ThreadPoolExecutor(2))
        services.add_TraceServiceServicer_to_server(self, self._server)
        log_services.add_LogsServiceServicer_to_server(_Logs(self.logs), self._server)
        if credentials is None:
            port = self._server.add_insecure_port("127.0.0.1:0")
        else:
            port = self._server.add_secure_port("127.0.0.1:0", credentials)
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def Export(self, request, context):  # noqa: N802 (named by the protocol)
        self.received.put((request, dict(context.invocation_metadata())))
        return messages.ExportTraceServiceResponse()

    def close(self) -> None:
        self._server.stop(0).wait()


class HttpCollector:
    """As GrpcCollector; a path that ends in `logs` has log records. `:path` is with the headers."""

    def __init__(self) -> None:
        self.received: queue.Queue = queue.Queue()
        self.logs: queue.Queue = queue.Queue()
        received, logs = self.received, self.logs

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                is_log = self.path.endswith("logs")
                kind = log_messages.ExportLogsServiceRequest if is_log else _Spans
                request = kind.FromString(body)
                headers = {name.lower(): value for name, value in self.headers.items()}
                (logs if is_log else received).put((request, headers | {":path": self.path}))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: object) -> None:
                """Not to stderr."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
