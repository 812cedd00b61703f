"""The rarer forms of a request target: absolute, of CONNECT, and the asterisk.

Source: RFC 9112 section 3.2. The usual form, a path, is told by its first octet.
"""

from __future__ import annotations

import re

from sidecar.http import h1

_ABSOLUTE = re.compile(r"(https?)://([^/?#]*)(.*)", re.IGNORECASE | re.DOTALL)


def resolve(head: h1.RequestHead, host: str, scheme: str) -> tuple[str, str, str]:
    """`(scheme, authority, target)` of a request whose target is no path.

    `host`: the Host field. `scheme`: the connection's. Raises RequestError.
    """
    target = head.target
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is not None:
        _check_host(host, absolute[2])
        scheme, host = absolute[1].lower(), absolute[2]
        target = absolute[3] if absolute[3].startswith("/") else "/" + absolute[3]
    elif head.method == "CONNECT":
        _check_host(host, target)
        host = target
    elif not (target == "*" and head.method == "OPTIONS"):
        raise h1.bad_request("invalid request target")
    if "#" in target:
        raise h1.bad_request("invalid request target")
    return scheme, host, target


def _check_host(host: str, authority: str) -> None:
    # RFC 9112 lets the target win; two names for one request are refused instead.
    if host and host.lower() != authority.lower():
        raise h1.bad_request("Host differs from the request target")
