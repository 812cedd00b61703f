"""Pseudo headers that a computed value may change, each with the check its value must pass.

Source: RFC 9113 section 8.3; spec/config.md section 3.5; hardening cases 36 and 37.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from sidecar.errors import RequestError
from sidecar.http.message import Request, Response
from sidecar.policies.fields import TOKEN
from sidecar.routing import canonical

Setter = Callable[[Request, Response | None, bytes], None]
"""Changes the message in place; a value that the wire cannot carry changes nothing."""


def _method(request: Request, response: Response | None, value: bytes) -> None:
    # CONNECT has another shape of target: nothing can become it, and it cannot become anything.
    if TOKEN.fullmatch(value) and value != b"CONNECT" and request.method != "CONNECT":
        request.method = value.decode("ascii")


def _scheme(request: Request, response: Response | None, value: bytes) -> None:
    scheme = value.lower()
    if scheme in (b"http", b"https"):
        request.scheme = scheme.decode("ascii")


def _authority(request: Request, response: Response | None, value: bytes) -> None:
    try:
        request.authority = canonical.authority(value.decode("latin-1"))
    except RequestError:
        return


def _path(request: Request, response: Response | None, value: bytes) -> None:
    if request.method == "CONNECT" or not value.startswith(b"/"):
        return
    try:
        _, _, request.target = canonical.resolve(value.decode("latin-1"))
    except RequestError:
        return
    # The canonical path that expressions see belongs to the old target.
    request.state.pop("path", None)


def _status(request: Request, response: Response | None, value: bytes) -> None:
    if response is None or response.tunnel is not None:
        return
    if len(value) == 3 and value.isdigit() and value >= b"200":
        response.status = int(value)


def target_of(request: Request) -> str:
    """Path and query as another service is shown them: as they will be forwarded.

    Before a route is chosen they are as received, and no service may judge another path than the
    router does (case 37). Raises: RequestError 400.
    """
    return request.target if request.method == "CONNECT" else canonical.resolve(request.target)[2]


REQUEST: Mapping[str, Setter] = {
    ":method": _method,
    ":scheme": _scheme,
    ":authority": _authority,
    ":path": _path,
}
RESPONSE: Mapping[str, Setter] = {":status": _status}
