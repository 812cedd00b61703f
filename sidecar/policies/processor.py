"""A processor as configured: where it is, and what it is told beside the messages.

Source: spec/config.md section 3.9; envoy.service.ext_proc.v3.
"""

from __future__ import annotations

import logging
from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, Final, final

from sidecar.cel.variables import Plan
from sidecar.errors import ConfigError
from sidecar.http.headers import HOP_BY_HOP
from sidecar.http.message import Request, Response
from sidecar.policies import fields
from sidecar.policies._pb import envoy_pb2 as envoy
from sidecar.policies._pb import ext_proc_pb2 as pb
from sidecar.policies.base import Services
from sidecar.policies.expressions import Expression, shared_plan
from sidecar.policies.mutation import struct
from sidecar.policies.processing import ATTRIBUTES, INITIAL_METADATA, Processing, sides
from sidecar.policies.processing_session import REQUEST, RESPONSE, Session
from sidecar.policies.schema import child

_log = logging.getLogger("sidecar.policies.ext_proc")
_QUIET_NS: Final = 10_000_000_000
_RESERVED: Final = HOP_BY_HOP | {b"content-type", b"content-length", b"host", b"user-agent"}
Named = list[tuple[str, Expression]]
Facts = Callable[[str, Request], Mapping[str, Mapping[str, Any]]]


@final
class Processor:
    """One alternative: a service and what it is sent. Raises: ConfigError below the policy."""

    __slots__ = (
        "_facts",
        "_initial",
        "_metadata",
        "_quiet_until_ns",
        "allows_override",
        "attributes",
        "callout",
        "fails_open",
        "needs_request_body",
        "needs_response_body",
        "plans",
        "services",
        "sides",
    )

    def __init__(self, config: Processing, services: Services, facts: Facts | None = None) -> None:
        """`facts`: metadata that no expression gives, by side and name space."""
        self._facts = facts
        self.callout = services.callouts.resolve(config.reference, config.policies, "ExtProc")
        self.services = services
        self.fails_open = config.failure_mode == "failOpen"
        self.allows_override = config.processing_options.allow_mode_override
        self.sides = sides(config.processing_options)
        self._quiet_until_ns = 0
        self._metadata: list[tuple[str, Named]] = []
        self._initial: list[tuple[bytes, Expression]] = []
        for space, values in config.metadata_context.items():
            path = child("metadataContext", space)
            named = _named(values, services, path)
            if space == INITIAL_METADATA:
                self._initial = [(_key(name, path), one) for name, one in named]
            else:
                self._metadata.append((space, named))
        self.attributes = {
            REQUEST: _named(config.request_attributes, services, "requestAttributes"),
            RESPONSE: _named(
                config.response_attributes, services, "responseAttributes", with_response=True
            ),
        }
        told = [one for _, named in self._metadata for _, one in named]
        told += [one for _, one in self._initial]
        self.plans: dict[str, Plan] = {
            side: shared_plan([*told, *(one for _, one in self.attributes[side])])
            for side in (REQUEST, RESPONSE)
        }
        self.needs_request_body = any(plan.needs_request_body for plan in self.plans.values())
        self.needs_response_body = self.plans[RESPONSE].needs_response_body

    def session(self, request: Request) -> Session:
        """A stream for a request; nothing is sent yet."""
        variables = self.plans[REQUEST].activation(request) if self._initial else {}
        metadata: list[tuple[bytes, bytes]] = []
        for name, expression in self._initial:
            raw = expression.encoded_in(variables)
            value = b64encode(raw) if raw is not None and name.endswith(b"-bin") else raw
            value = None if value is None or not value.isascii() else fields.checked(value)
            if value is not None:
                metadata.append((name, value))
        return Session(self.callout, request, tuple(metadata), self.services.clock)

    def adorn(
        self, message: pb.ProcessingRequest, side: str, request: Request, response: Response | None
    ) -> None:
        """Put what goes with the first message of a direction into it."""
        named = self.attributes[side]
        if not named and not self._metadata and self._facts is None:
            return
        variables = self.plans[side].activation(request, response)
        values = _values(named, variables)
        if values:
            message.attributes[ATTRIBUTES].CopyFrom(struct(values))
        told: dict[str, Mapping[str, Any]] = {
            space: _values(every, variables) for space, every in self._metadata
        }
        if self._facts is not None:
            told.update(self._facts(side, request))
        made = {space: struct(one) for space, one in told.items() if one}
        if made:
            message.metadata_context.CopyFrom(envoy.Metadata(filter_metadata=made))

    def complain(self, text: str, *values: object) -> None:
        """Log, at most every ten seconds: a service that is down fails each request."""
        now = self.services.clock.monotonic_ns()
        if now >= self._quiet_until_ns:
            self._quiet_until_ns = now + _QUIET_NS
            _log.warning(text, *values)


def _named(
    sources: Mapping[str, str], services: Services, path: str, *, with_response: bool = False
) -> Named:
    return [
        (name, Expression(source, services, child(path, name), with_response=with_response))
        for name, source in sources.items()
    ]


def _values(named: Named, variables: Mapping[str, object]) -> dict[str, Any]:
    found = ((name, one.value_in(variables)) for name, one in named)
    return {name: value for name, value in found if value is not None}


def _key(text: str, path: str) -> bytes:
    name = fields.header_name(text, child(path, text))
    if name in _RESERVED or name.startswith((b"grpc-", b":")):
        raise ConfigError(child(path, text), "gRPC has its own use for this name")
    return name
