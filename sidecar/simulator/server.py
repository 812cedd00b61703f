"""The simulator as a server on one loopback port, over the front door that the gateway has.

It wants no key, looks nothing up and keeps nothing but what it was last asked, for tests.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final
from urllib.parse import unquote

import orjson

from sidecar.echo import EchoServer
from sidecar.errors import BodyTooLarge, ClientDisconnected, RequestError, UpstreamError
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Request, Response, read_all
from sidecar.simulator import bedrock, faults, frames
from sidecar.simulator.ask import BadAskError, Json, as_text, read
from sidecar.simulator.faults import Faults
from sidecar.simulator.operations import JSON, Chat, Once, Operation, find, models
from sidecar.simulator.reply import make

MAX_BODY_BYTES: Final = 32 * 1024 * 1024
HANG_SECONDS: Final = 600.0
"""How long `hang` and `silent-stream` last: longer than any client waits."""
_KEPT_REQUESTS: Final = 100
_PAGE: Final = b"<!doctype html><title>Simulated outage</title><h1>Bad gateway</h1>\n"


@final
@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it arrived. Header names are lower-case."""

    method: str
    authority: str
    target: str
    headers: dict[str, str]
    body: bytes


@final
class Simulator:
    """The server. `pace_seconds`: time between two events of a stream."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pace_seconds: float = 0.0) -> None:
        self._server = EchoServer(loop, self.respond)
        self._pace = pace_seconds
        self.seen: deque[Seen] = deque(maxlen=_KEPT_REQUESTS)
        self.closed_streams = 0
        """Streams whose reader left before their end."""

    @property
    def port(self) -> int:
        """The real one once started."""
        return self._server.port

    def start(self, port: int) -> None:
        """Listen on 127.0.0.1; 0 takes any free port. Raises: OSError."""
        self._server.start(port)

    async def stop(self) -> None:
        """Stop listening, and give what is under way two seconds to end."""
        await self._server.stop()

    async def respond(self, request: Request) -> Response:
        """The Handler (sidecar.http.message): never raises but for CancelledError."""
        try:
            data = await read_all(request.body, MAX_BODY_BYTES)
        except BodyTooLarge as error:
            request.body.close()
            return _error("openai", 413, str(error))
        except (ClientDisconnected, RequestError) as error:
            return _error("openai", 400, str(error))
        self._remember(request, data)
        if request.method == "GET":
            is_anthropic = request.headers.get(b"anthropic-version") is not None
            listed = models(request.path, is_anthropic=is_anthropic)
            return _not_found(request) if listed is None else _json(listed)
        found = find(request.path, request.query)
        if found is None or request.method != "POST":
            return _not_found(request)
        operation, named = found
        try:
            return await self._answer(request, operation, unquote(named), data)
        except BadAskError as error:
            return _error(operation.family, 400, str(error))

    def _remember(self, request: Request, data: bytes) -> None:
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in request.headers}
        self.seen.append(Seen(request.method, request.authority, request.target, headers, data))

    async def _answer(
        self, request: Request, operation: Operation, named: str, data: bytes
    ) -> Response:
        body = _object(data)
        model = named or as_text(body.get("model"))
        asked = faults.read((request.headers.get(faults.HEADER) or b"").decode("latin-1"), model)
        if asked.is_hanging:
            await asyncio.sleep(HANG_SECONDS)
        if asked.status:
            return _error(operation.family, asked.status, f"simulated failure {asked.status}")
        if asked.is_html:
            return Response(200, Headers([(b"content-type", b"text/html")]), FixedBody(_PAGE))
        if isinstance(operation, Once):
            return _once(operation, model, body, asked)
        return await self._chat(request, operation, model, body, asked)

    async def _chat(
        self, request: Request, chat: Chat, model: str, body: Json, asked: Faults
    ) -> Response:
        reply = make(read(body, model), asked.words)
        is_streamed = chat.is_streamed
        if is_streamed is None:
            is_streamed = body.get("stream") is True or request.path.endswith(":streamRawPredict")
        if not is_streamed:
            await asyncio.sleep(asked.wait_seconds)
            return _json(chat.whole(model, reply), is_bad=asked.is_bad_json)
        if asked.pace_seconds is None:
            asked.pace_seconds = self._pace
        stream = StreamBody(self, chat.family, chat.stream(model, reply, body), asked)
        headers = [(b"content-type", chat.media_type), (b"cache-control", b"no-cache")]
        headers.append((b"x-request-id", reply.identity.encode()))
        headers.append((b"x-amzn-requestid", reply.identity.encode()))
        return Response(200, Headers(headers), stream)


@final
class StreamBody:
    """A Body of a stream's events, one at a time, that fails where it was asked to."""

    __slots__ = ("_events", "_faults", "_is_first", "_is_over", "_owner", "length", "trailers")

    def __init__(
        self, owner: Simulator, family: str, events: Iterator[bytes], asked: Faults
    ) -> None:
        self.length: int | None = None
        self.trailers: Headers | None = None
        self._owner = owner
        self._faults = asked
        self._is_first = True
        self._is_over = False
        self._events = events
        if asked.is_cut or asked.is_silent or asked.is_failing:
            whole = list(events)
            half = whole[: max(len(whole) // 2, 1)]
            if asked.is_cut:
                half.append(whole[len(half) % len(whole)][:-4])
            if asked.is_failing:
                half.append(_error_event(family))
            self._events = iter(half)

    def read_nowait(self) -> bytes | None:
        """See Body: an event is never at hand, so that each is sent by itself."""
        return b"" if self._is_over else None

    async def read(self) -> bytes:
        """See Body. Raises: UpstreamError where the connection is to be cut."""
        asked = self._faults
        await asyncio.sleep(asked.wait_seconds if self._is_first else asked.pace_seconds or 0.0)
        self._is_first = False
        event = next(self._events, b"")
        if event:
            return event
        if asked.is_silent:
            await asyncio.sleep(HANG_SECONDS)
        if asked.is_cut or asked.is_silent:
            raise UpstreamError(502, "Simulated", "simulated end of the connection")
        self._is_over = True
        return b""

    def close(self) -> None:
        """See Body."""
        if next(self._events, b""):
            self._owner.closed_streams += 1
        self._events = iter(())
        self._is_over = True


def _object(data: bytes) -> Json:
    try:
        body = orjson.loads(data)
    except orjson.JSONDecodeError as exc:
        raise BadAskError(f"body: not JSON ({exc})") from exc
    if not isinstance(body, dict):
        raise BadAskError("body: expected an object")
    return body


def _once(operation: Once, model: str, body: Json, asked: Faults) -> Response:
    response = _json(operation.answer(model, body), is_bad=asked.is_bad_json)
    if operation.family == "bedrock":
        count = bedrock.embed(model, body)[1] if model else 0
        response.headers.set(b"x-amzn-bedrock-input-token-count", b"%d" % count)
    return response


def _json(body: Json, status: int = 200, *, is_bad: bool = False) -> Response:
    data = orjson.dumps(body)
    data = data[: len(data) // 2] if is_bad else data
    return Response(status, Headers([(b"content-type", JSON)]), FixedBody(data))


def _error(family: str, status: int, message: str) -> Response:
    response = _json(faults.error(family, status, message), status)
    if status == 429:
        response.headers.set(b"retry-after", b"1")
    if family == "bedrock":
        response.headers.set(b"x-amzn-errortype", faults.bedrock_type(status).encode())
    return response


def _not_found(request: Request) -> Response:
    return _error("openai", 404, f"{request.method} {request.path}: no such operation")


def _error_event(family: str) -> bytes:
    message = "simulated failure within a stream"
    if family == "bedrock":
        return frames.aws("modelStreamErrorException", {"message": message}, "exception")
    status = 529 if family == "anthropic" else 500
    body = faults.error(family, status, message)
    return frames.named(body) if family == "anthropic" else frames.data(body)
