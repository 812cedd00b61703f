"""The shape of a conversion between two wire formats, and what it may know of the call.

Source: spec llm section 2. A conversion is one file, stateless; what belongs to one call is in its
`Context` or in the stream object it makes. Time and chance come in through the context.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, final

from sidecar.errors import RequestError

Json = dict[str, Any]

_UNPRINTABLE: Final = re.compile(r"[^ -+\--~]")
"""All but visible ASCII and the space; the comma separates the names."""
_MAX_DROPPED_CHARS: Final = 80
_MAX_DROPPED: Final = 20


@final
@dataclass(frozen=True, slots=True)
class StreamEvent:
    """One event of a provider's stream, decoded. `data` None: the `[DONE]` mark.

    `name`: the SSE event's name, or the event-stream frame's `:event-type`; "" when unnamed.
    """

    name: str
    data: Json | None


@final
@dataclass(slots=True)
class Context:
    """One call, as a conversion sees it."""

    model: str
    """The model asked of the provider, after aliases."""
    requested_model: str
    """The model that the client named."""
    is_streaming: bool
    now_seconds: int
    """Since 1970."""
    new_id: Callable[[str], str]
    """`new_id("msg_")`: the prefix and 16 random hexadecimal digits."""
    rejects_loss: bool = False
    """`lossy: reject`: what the target cannot express is refused instead of dropped."""
    headers: dict[str, str] = field(default_factory=dict)
    """Client headers that conversions read (`x-bedrock-metadata`, `anthropic-beta`), lower case."""
    settings: Json = field(default_factory=dict)
    """What the provider's configuration adds: `guardrailConfig`, `promptCaching`, ...."""
    custom_tools: frozenset[str] = frozenset()
    """Free-form tools of the client that went to the provider as functions (custom_tools.py)."""
    dropped: list[str] = field(default_factory=list)
    """Names of what was left out, for the `x-agentgateway-dropped` response header."""
    tool_names: dict[str, str] = field(default_factory=dict)
    """Name sent to the provider → the client's, where they differ."""
    request_id: str = ""
    """The provider's id of the answer, from its response headers; streams use it."""
    answer_headers: dict[str, str] = field(default_factory=dict)
    """The provider's headers that conversions read (`x-amzn-bedrock-input-token-count`), lower
    case."""
    asked: Json = field(default_factory=dict)
    """What a conversion's `request` leaves for its `response`: `encoding_format`, `documents`."""

    @property
    def known_as(self) -> str:
        """The maker's name of the model, where the provider's settings say that it is another."""
        name = self.settings.get("knownAs")
        return name if isinstance(name, str) else self.model

    def drop(self, what: str) -> None:
        """Say that `what` cannot be expressed. Raises: RequestError 400 under `lossy: reject`."""
        # Names may hold what the client wrote, and go into a header.
        what = _UNPRINTABLE.sub("?", what[:_MAX_DROPPED_CHARS])
        if self.rejects_loss:
            raise RequestError(
                400, "InvalidRequest", f"{what} cannot be expressed for this provider"
            )
        if what not in self.dropped and len(self.dropped) < _MAX_DROPPED:
            self.dropped.append(what)


class StreamConversion(Protocol):
    """One stream under way. What it gives are whole SSE frames in the client's format."""

    def feed(self, event: StreamEvent) -> list[bytes]:
        """The frames that this event causes, often none."""

    def finish(self) -> list[bytes]:
        """The upstream ended: what is still due. An end that came too early is an error event."""


class Conversion(Protocol):
    """One pair: client format → provider format, and its answers back."""

    def request(self, body: Json, context: Context) -> Json:
        """The provider's body. `body` is not changed. Raises: RequestError 400."""

    def response(self, body: Json, context: Context) -> Json:
        """The client's body. Raises: UpstreamError 502 for an answer that makes no sense."""

    def stream(self, context: Context) -> StreamConversion:
        """A converter for one stream."""

    def error(self, status: int, body: bytes, context: Context) -> Json:
        """The provider's error, whatever bytes it sent, as the client's error object."""
