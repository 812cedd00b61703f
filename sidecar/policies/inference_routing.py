"""Another service, an endpoint picker, says which endpoint of a service a request goes to.

Source: spec/config.md section 3.11; spec/k8s.md section 4; Gateway API Inference Extension,
endpoint picker protocol (proposal 004); envoy.service.ext_proc.v3.

A picker is a processor (see extProc) that is shown whole messages of both directions and names its
choice in a header. What it names is found by whoever calls the service: `choice`.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final, Literal, final

from sidecar.errors import ConfigError, RequestError
from sidecar.http.message import FixedBody, Request, Response, read_up_to
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.callouts import CalloutConfig
from sidecar.policies.fields import remover
from sidecar.policies.processing import REASON, Processing
from sidecar.policies.processing_exchange import Exchange
from sidecar.policies.processing_session import RESPONSE
from sidecar.policies.processor import Processor
from sidecar.policies.schema import PolicyConfig, nested

HEADER: Final = b"x-gateway-destination-endpoint"
"""What a picker names its choice in: `ip:port`, or several, the best first."""
SERVED: Final = "x-gateway-destination-endpoint-served"
_SPACE: Final = "envoy.lb"
_CHOICE: Final = "endpoint picker's choice"
_POOL: Final = "inferencepool"
_MAX_CHOICES: Final = 16
_MAX_BYTES: Final = 1024

Destination = tuple[str, int]
"""An IP literal in its shortest form, and a port."""


class Config(PolicyConfig):
    """The picker, and how far it is trusted."""

    endpoint_picker: CalloutConfig
    """Where it is, and how it is reached."""
    destination_mode: Literal["validated", "passthrough"] = "validated"
    """Default validated: its choice must be an endpoint of the service; passthrough: any."""
    failure_mode: Literal["failClosed", "failOpen"] = "failClosed"
    """Without a choice of the picker: 500, or the gateway balances by itself."""


@final
class InferenceRouting:
    """Both hooks, for each attempt anew."""

    __slots__ = ("_drop", "_key", "_limit_bytes", "_picker")

    def __init__(self, config: Config, services: Services) -> None:
        picker = config.endpoint_picker.model_dump(by_alias=True, exclude_none=True)
        given = Processing.model_validate({**picker, "failureMode": config.failure_mode})
        try:
            self._picker = Processor(given, services, _served)
        except ConfigError as problem:
            raise nested("endpointPicker", problem) from problem
        self._limit_bytes = services.max_buffer_bytes
        self._key = f"inferenceRouting/{id(self):x}"
        drop = remover((HEADER,), twins=True)
        assert drop is not None
        self._drop = drop

    async def on_request(self, request: Request) -> Response | None:
        """Ask for an endpoint; a Response when the picker answers itself. Raises: RequestError."""
        headers = request.headers = request.headers.copy()
        # Where a request goes is not for its client to say, nor for an earlier attempt.
        self._drop(headers)
        request.state.pop(_CHOICE, None)
        length = request.body.length
        exchange = Exchange(self._picker, request)
        request.state[self._key] = exchange
        request.endings += (exchange.end,)
        answer = await exchange.on_request()
        if answer is not None:
            return answer
        if length is not None and length <= self._limit_bytes:
            await self._hold(request)
        said = b",".join(request.headers.get_all(HEADER))
        if said:
            request.state[_CHOICE] = _parsed(said)
        elif not self._picker.fails_open:
            raise _failed("the endpoint picker chose no endpoint")
        return None

    async def _hold(self, request: Request) -> None:
        """A body that came with a length goes on with one, and fit to be sent again where a kept
        connection proved stale. Pickers wait for all of it anyway. Raises: SidecarError."""
        body = request.body
        if type(body) is not FixedBody:
            whole, rest = await read_up_to(body, self._limit_bytes)
            request.body = rest or FixedBody(whole, body.trailers)

    async def on_response(self, request: Request, response: Response) -> None:
        """Show a response that an endpoint made. Raises: SidecarError."""
        exchange = request.state.get(self._key)
        if isinstance(exchange, Exchange) and response.reason == "Upstream":
            await exchange.on_response(response)


def choice(request: Request) -> tuple[Destination, ...]:
    """What the picker chose for this attempt, the best first; () when it chose nothing."""
    found = request.state.get(_CHOICE)
    return found if isinstance(found, tuple) else ()


def note_served(request: Request, label: str) -> None:
    """Tell which endpoint is called: to the picker, and to the access log."""
    request.state[_POOL] = {"selectedEndpoint": label}


def destination(text: str) -> Destination | None:
    """`ip:port` or `[ip]:port`; None for anything else."""
    host, _, port = text.strip().rpartition(":")
    is_number = port.isascii() and port.isdigit() and len(port) <= 5
    if not is_number or not 0 < int(port) < 65536 or "%" in host:
        return None
    is_bracketed = host.startswith("[") and host.endswith("]")
    try:
        found = ipaddress.ip_address(host[1:-1] if is_bracketed else host)
    except ValueError:
        return None
    return (str(found), int(port)) if (found.version == 6) == is_bracketed else None


def _parsed(said: bytes) -> tuple[Destination, ...]:
    """Raises: RequestError for what is no list of endpoints, whatever the failure mode: somebody
    chose, and nobody knows what."""
    texts = said[: _MAX_BYTES + 1].decode("latin-1").split(",")
    found = [destination(text) for text in texts]
    known = [one for one in found if one is not None]
    if len(known) < len(found) or len(found) > _MAX_CHOICES or len(said) > _MAX_BYTES:
        raise _failed("the endpoint picker's choice is no list of addresses")
    return tuple(dict.fromkeys(known))


def _failed(why: str) -> RequestError:
    return RequestError(500, REASON, f"ext_proc failed: {why}")


def _served(side: str, request: Request) -> Mapping[str, Mapping[str, str]]:
    """With a response the picker learns which endpoint it is of."""
    pool = request.state.get(_POOL)
    if side != RESPONSE or not isinstance(pool, dict):
        return {}
    return {_SPACE: {SERVED: pool["selectedEndpoint"]}}


KIND = PolicyKind("inferenceRouting", Config, InferenceRouting)
