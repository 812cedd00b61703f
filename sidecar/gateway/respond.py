"""The one place where an error becomes a response, in the shape the client's protocol expects.

Source: spec/config.md section 11. Plain HTTP gets text; gRPC gets 200 with grpc-status; a route to
model providers answers in the format of the API that the client called.
"""

from __future__ import annotations

from typing import Final
from urllib.parse import quote

from sidecar.errors import BodyTooLarge, ClientDisconnected, RequestError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response, text_response

_GRPC_STATUS: Final = {
    400: b"13",
    401: b"16",
    407: b"16",
    403: b"7",
    404: b"12",
    429: b"14",
    502: b"14",
    503: b"14",
    504: b"14",
}
_UNKNOWN: Final = b"2"
_UNSAID: Final = {413: "request body too large"}
"""What plain HTTP leaves to the status is said where a format has a place for words."""


def is_grpc(request: Request) -> bool:
    """Whether the client speaks gRPC and so reads grpc-status, not the HTTP status."""
    kind = request.headers.get(b"content-type")
    return kind is not None and kind.startswith(b"application/grpc")


def error_response(request: Request, error: Exception) -> Response:
    """The response for anything that went wrong; an unknown exception says nothing of itself."""
    if isinstance(error, RequestError):
        response = make(request, error.status, error.message, error.code)
        response.headers.extend(error.headers)
        response.close = error.close
    elif isinstance(error, UpstreamError):
        response = make(request, error.status, error.message, error.code)
    elif isinstance(error, ClientDisconnected):
        # Nobody reads this; it ends the exchange like any other.
        response = make(request, 400, "client disconnected", "InvalidRequest")
        response.close = True
    elif isinstance(error, BodyTooLarge):
        response = make(request, 413, "request body too large", "InvalidRequest")
    else:
        response = make(request, 500, "internal error", "Internal")
        response.error = f"{type(error).__name__}"
        return response
    response.error = str(error)
    return response


def make(request: Request, status: int, message: str, reason: str) -> Response:
    """A local response with this status, or its gRPC form."""
    words = message or _UNSAID.get(status, "")
    if not is_grpc(request):
        shape = getattr(request.route, "error_shape", None)
        body = None if shape is None else shape(request, status, words, reason)
        if body is not None:
            headers = Headers(((b"content-type", b"application/json"),))
            return Response(status, headers, FixedBody(body), reason=reason)
        return text_response(status, message, reason=reason)
    code = b"14" if message == "no valid backends" else _GRPC_STATUS.get(status, _UNKNOWN)
    headers = Headers(
        (
            (b"content-type", b"application/grpc"),
            (b"grpc-status", code),
            (b"grpc-message", quote(words, safe=" !#$&'()*+,-./:;<=>?@[]^_`{|}~").encode()),
        )
    )
    return Response(200, headers, FixedBody(), reason=reason)
