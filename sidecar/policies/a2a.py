"""Tells what an A2A request calls, before rules, limits and transformations ask for it.

Source: spec/config.md section 4.7; spec/mcp_a2a.md section 3; A2A 0.3 and 1.0.

It leaves the variable `a2a` of expressions and what `gateway.a2a_serve` needs, which does the rest.
A body is read where the method or an id stands in it; cards and other GETs are never held up.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Any, Final, Literal, Self, final
from urllib.parse import parse_qsl, urlsplit

from pydantic import Field, field_validator, model_validator

from sidecar.a2a import calls, webhook
from sidecar.a2a.framing import BadFrame, unframed
from sidecar.a2a.methods import STREAMING, AmbiguousPath, Binding, Called, called
from sidecar.a2a.outcome import Watch
from sidecar.a2a.signing import Algorithm, Signer
from sidecar.errors import BodyTooLarge, RequestError
from sidecar.http.decoded import plain_request
from sidecar.http.message import FixedBody, Request, Response, read_up_to
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.schema import PolicyConfig
from sidecar.routing import canonical

STATE: Final = "a2a"
CALL: Final = "a2a.call"
WATCH: Final = "a2a.watch"
REFUSED: Final = "a2a.refused"
"""Keys of `Request.state`: the variable; a Call; the Watch of the answer; a BadCallError."""
VERSION_HEADER: Final = b"a2a-version"
_OLDEST: Final = "0.3"
"""What a client speaks that does not say."""
_TEXT_MAX: Final = 32
_ERROR_STATUS: Final = 400
_VERSION: Final = re.compile(r"(\d{1,3}\.\d{1,3})(?:\.\d{1,5})?")
_HOST: Final = re.compile(r"(?:\*\.)?[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


class Signing(PolicyConfig):
    """A key for cards that were rewritten."""

    key: str
    """The private key, PEM."""
    key_id: str = Field(min_length=1, max_length=256)
    """Its name in the JWKS of who verifies."""
    algorithm: Algorithm = "ES256"
    """Of JWS; it must fit the key."""
    jwks_url: str | None = None
    """Where verifiers find the public key (`jku`)."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        self.signer()
        return self

    def signer(self) -> Signer:
        """Made ready. Raises: ValueError."""
        return Signer(self.key, self.algorithm, self.key_id, self.jwks_url)


class Card(PolicyConfig):
    """How agent cards are rewritten."""

    public_url: str | None = None
    """`https://agents.example.com`: where clients find the root of this gateway."""
    grpc_authority: str | None = None
    """`host:port` for gRPC interfaces."""
    trust_forwarded_host: bool = False
    """Whether X-Forwarded-Host stands for Host."""
    max_bytes: int = Field(default=1024 * 1024, ge=1, le=64 * 1024 * 1024)
    """Size of a card."""
    cache_control: str = "no-cache"
    """Sent when the agent sends none."""
    signing: Signing | None = None
    """Signs cards anew (not those of gRPC). Default: rewritten cards have no signature."""

    @field_validator("public_url")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parts = urlsplit(value)
        is_bare = not (parts.query or parts.fragment) and "@" not in parts.netloc
        if parts.scheme not in ("http", "https") or not parts.hostname or not is_bare:
            raise ValueError("must be an http or https URL without query and credentials")
        return value.rstrip("/")

    @field_validator("grpc_authority")
    @classmethod
    def _authority(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            authority = canonical.authority(value)
        except RequestError as error:
            raise ValueError("must be host:port") from error
        if not authority.rpartition(":")[2].isdigit():
            raise ValueError("must be host:port")
        return authority

    @field_validator("cache_control")
    @classmethod
    def _field_value(cls, value: str) -> str:
        if not value.isascii() or not value.isprintable():
            raise ValueError("must be printable ASCII")
        return value


class Push(PolicyConfig):
    """Where agents may be told to send push notifications."""

    mode: Literal["check", "allow", "deny"] = "check"
    """Public addresses only, anything, or nothing."""
    allowed_hosts: list[str] = Field(default_factory=list)
    """Names that are trusted unseen; `*.example.com` for all below it."""
    allowed_networks: list[str] = Field(default_factory=list)
    """Networks that are trusted although they are not public."""
    schemes: list[Literal["http", "https"]] = Field(default=["http", "https"], min_length=1)
    """Of URLs."""

    @field_validator("allowed_hosts")
    @classmethod
    def _hosts(cls, value: list[str]) -> list[str]:
        hosts = [name.lower().rstrip(".") for name in value]
        if not all(_HOST.fullmatch(name) for name in hosts):
            raise ValueError("must be names, or `*.` and a name")
        return hosts

    @field_validator("allowed_networks")
    @classmethod
    def _networks(cls, value: list[str]) -> list[str]:
        for text in value:
            ipaddress.ip_network(text)
        return value

    def policy(self) -> webhook.Policy:
        """Made ready."""
        networks = [ipaddress.ip_network(text) for text in self.allowed_networks]
        return webhook.Policy(self.allowed_hosts, networks, self.schemes)


class Config(PolicyConfig):
    """Agent-to-agent traffic."""

    card: Card = Field(default_factory=Card)
    """Agent cards."""
    push_notifications: Push = Field(default_factory=Push)
    """Webhooks of clients."""
    versions: list[str] = Field(default_factory=lambda: ["0.3", "1.0"], min_length=1)
    """Protocol versions that are served."""

    @field_validator("versions")
    @classmethod
    def _versions(cls, value: list[str]) -> list[str]:
        if not all(re.fullmatch(r"\d{1,3}\.\d{1,3}", one) for one in value):
            raise ValueError("must be versions such as 1.0")
        return value


@final
@dataclass(frozen=True, slots=True)
class Call:
    """What a request calls, and in which octets that was read."""

    head: Called
    details: calls.Details
    raw: bytes | None
    """The body as it was received; None where nobody read it."""

    @property
    def binding(self) -> Binding:
        """Of the request."""
        return self.head.binding


@final
class BadCallError(RequestError):
    """A body that cannot be judged. `json_rpc`: the code; `identity`: of the JSON-RPC request."""

    def __init__(self, problem: calls.BadCall) -> None:
        super().__init__(400, "InvalidRequest", problem.message)
        self.json_rpc = problem.code
        self.identity = problem.identity


def head_of(request: Request) -> Called:
    """By the request's head. Raises: RequestError 400."""
    path = request.state.get("path")
    if not isinstance(path, str):
        path = "" if request.target == "*" else canonical.path(request.target)
    kind = (request.headers.get(b"content-type") or b"").lower()
    try:
        return called(request.method, path, kind)
    except AmbiguousPath as error:
        raise RequestError(400, "InvalidRequest", str(error)) from error


def version_of(request: Request) -> str:
    """The version that the client asks for, without its patch level; what is none stays text."""
    given = set(request.headers.get_all(VERSION_HEADER))
    # Several that differ are none that is served: agents would take the first, the last or all.
    text = b", ".join(sorted(given)).decode("latin-1").strip()
    if not text and "ersion=" in request.query:
        pairs = parse_qsl(request.query, max_num_fields=256)
        text = next((value for name, value in pairs if name.lower() == "a2a-version"), "")
    if not text:
        return _OLDEST
    found = _VERSION.fullmatch(text)
    return found[1] if found is not None else text[:_TEXT_MAX]


async def read_call(request: Request, head: Called, limit_bytes: int) -> Call:
    """The call, its body held whole where that is part of it.

    Raises: RequestError 400, 413, 415; ClientDisconnected.
    """
    is_known_grpc = head.binding == "GRPC" and bool(head.era)
    is_rest_body = head.binding == "HTTP+JSON" and request.method == "POST"
    if not (head.binding == "JSONRPC" or is_known_grpc or is_rest_body) or request.upgrade:
        return Call(head, calls.Details(head.method, head.wire_method, None, head.task_id), None)
    raw = await _hold(request, limit_bytes)
    try:
        return Call(head, _details(request, head, raw, limit_bytes), raw)
    except calls.BadCall as error:
        raise BadCallError(error) from error


async def _hold(request: Request, limit_bytes: int) -> bytes:
    body = request.body
    if type(body) is FixedBody and (body.length or 0) <= limit_bytes:
        return body.unread
    raw, rest = await read_up_to(body, limit_bytes)
    if rest is not None:
        raise RequestError(413, "InvalidRequest", "request body too large", close=True)
    request.body = FixedBody(raw, body.trailers)
    return raw


def _details(request: Request, head: Called, raw: bytes, limit_bytes: int) -> calls.Details:
    if head.binding == "GRPC":
        coding = request.headers.get(b"grpc-encoding")
        try:
            message = unframed(raw, coding, limit_bytes)
        except BadFrame as error:
            raise RequestError(400, "InvalidRequest", str(error)) from error
        return calls.grpc(head, message)
    plain = _decoded(request, raw, limit_bytes)
    if head.binding == "HTTP+JSON":
        return calls.rest(head, plain)
    kind = (request.headers.get(b"content-type") or b"").partition(b";")[0].strip().lower()
    is_json = kind == b"application/json" or kind.endswith(b"+json")
    # Another endpoint of the agent, an upload for one; but not every agent asks for the type.
    if not is_json and not calls.looks_like_rpc(plain):
        return calls.Details("")
    return calls.rpc(plain)


def _decoded(request: Request, raw: bytes, limit_bytes: int) -> bytes:
    # Fast path: clients seldom compress what they ask.
    if not request.headers.has(b"content-encoding"):
        return raw
    try:
        return plain_request(request, raw, limit_bytes)
    except BodyTooLarge as error:
        raise RequestError(413, "InvalidRequest", "request body too large") from error


@final
class A2a:
    """Notes what is called, and at the end what came of it."""

    __slots__ = ("_ended", "_limit")

    def __init__(self, config: Config, services: Services) -> None:
        self._limit = services.max_buffer_bytes
        self._ended = None if services.a2a_counter is None else services.a2a_counter()

    async def on_request(self, request: Request) -> None:
        """Raises: RequestError 400, 413, 415."""
        head = head_of(request)
        if not head.binding:
            return
        state: dict[str, Any] = {"binding": head.binding, "version": version_of(request)}
        if head.method:
            state["method"] = head.method
        request.state[STATE] = state
        request.endings = (*request.endings, self._end)
        try:
            call = await read_call(request, head, self._limit)
        except BadCallError as error:
            request.state[REFUSED] = error
            raise
        request.state[CALL] = call
        _tell(state, call)

    def _end(self, request: Request, response: Response | None) -> None:
        """See http.message.Ending."""
        state = request.state[STATE]
        assert isinstance(state, dict)
        watch = request.state.get(WATCH)
        if isinstance(watch, Watch):
            state.update(watch.finish(_grpc_status(response)))
        elif "outcome" not in state:
            state["outcome"] = _outcome(response)
        if self._ended is not None:
            self._ended(request)


def _tell(state: dict[str, Any], call: Call) -> None:
    details = call.details
    state["method"] = details.method
    state["streaming"] = details.method in STREAMING
    told = {
        "wireMethod": details.wire_method,
        "taskId": details.task_id,
        "contextId": details.context_id,
    }
    state.update({key: value for key, value in told.items() if value})
    if not details.method:
        # No call: what it is remains unknown, as the reference logs it.
        state["method"] = "unknown"


def _grpc_status(response: Response | None) -> int | None:
    if response is None:
        return None
    for fields in (response.headers, response.body.trailers):
        value = None if fields is None else fields.get(b"grpc-status")
        if value is not None and value.isdigit() and len(value) < 4:
            return int(value)
    return None


def _outcome(response: Response | None) -> str:
    if response is None:
        return "unknown"
    grpc_status = _grpc_status(response)
    if response.status >= _ERROR_STATUS or grpc_status:
        return "error"
    return "unknown" if grpc_status is None else "success"


KIND = PolicyKind("a2a", Config, A2a)
