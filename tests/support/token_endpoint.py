"""A token endpoint over TLS that keeps what it was asked, and is as bad as a path says."""

from __future__ import annotations

import ssl
import threading
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qsl

import orjson

from tests.support.authority import Authority
from tests.support.upstream import Answer, Seen, Upstream

ID_JAG = "urn:ietf:params:oauth:token-type:id-jag"
_JSON = [("content-type", "application/json")]
_CHANGES: dict[str, dict[str, Any]] = {
    "jag": {"token_type": "N_A", "issued_token_type": ID_JAG},
    "brief": {"expires_in": 5},
    "mac": {"token_type": "mac"},
    "long": {"access_token": "x" * 8193},
    "split": {"access_token": "a\r\nx-injected: 1"},
}
"""What of an answer is otherwise, by behaviour."""


def form_of(seen: Seen) -> dict[str, str]:
    """The form of a request; a name that comes twice has both values, with a blank between."""
    made: dict[str, str] = {}
    for name, value in parse_qsl(seen.body.decode(), keep_blank_values=True):
        made[name] = f"{made[name]} {value}" if name in made else value
    return made


class TokenEndpoint:
    """`with TokenEndpoint(folder) as endpoint:` serves `https://127.0.0.1:port/<behaviour>[/…]`.

    `root`: path of the certificate to trust. Each good answer is another token: `issued-1` and so
    on.
    """

    def __init__(self, folder: Path) -> None:
        authority = Authority()
        (folder / "endpoint.pem").write_bytes(authority.issue(["127.0.0.1"]).any())
        (folder / "root.pem").write_text(authority.root)
        self.root = str(folder / "root.pem")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "endpoint.pem")
        self.released = threading.Event()
        self.up = Upstream(self._answer, tls=context)
        self._lock = threading.Lock()
        self._count = 0

    @property
    def url(self) -> str:
        return f"https://{self.up.address}"

    def asked(self, target: str) -> list[Seen]:
        """What came for a path."""
        return [seen for seen in self.up.seen if seen.target == target]

    def wait_asked(self, target: str) -> Seen:
        """The first request for a path, once it is there."""
        with self.up._changed:
            assert self.up._changed.wait_for(
                lambda: any(seen.target == target for seen in self.up._seen), 20
            )
        return self.asked(target)[0]

    def counts(self) -> Counter[str]:
        """How often each path was asked."""
        return Counter(seen.target for seen in self.up.seen)

    def _answer(self, seen: Seen) -> Answer:
        behaviour = seen.target.split("/")[1]
        with self._lock:
            self._count += 1
            made: dict[str, Any] = {
                "access_token": f"issued-{self._count}",
                "token_type": "Bearer",
                "expires_in": 3600,
                **_CHANGES.get(behaviour, {}),
            }
        body = orjson.dumps(made)
        if behaviour == "held":
            assert self.released.wait(20)
        if behaviour == "text":
            body = b"<html>no</html>"
        if behaviour == "moved":
            return Answer(302, [("location", f"{self.url}/good/moved")])
        if behaviour == "huge":
            return Answer(200, _JSON, (b" " * 65536 for _ in range(64)))
        if behaviour == "liar":
            return Answer(200, [*_JSON, ("content-length", "99999999999")], body)
        if behaviour == "down":
            return Answer(drop=True)
        if behaviour.isdigit():
            told = {"error": "invalid_grant", "error_description": "SECRET-DESCRIPTION"}
            return Answer(int(behaviour), _JSON, orjson.dumps(told))
        return Answer(200, _JSON, body)

    def __enter__(self) -> Self:
        self.up.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.released.set()
        self.up.__exit__(kind, error, trace)
