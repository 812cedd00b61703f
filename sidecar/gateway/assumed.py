"""`aws.assumeRole` with a session's name or tags computed for each request: who is billed, who is
named in the trail.

Source: AWS STS documentation (AssumeRole, session tags); spec/config.md section 3.12.

Each session has credentials of its own, which all workers share; a worker holds those it used last.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any, Final, final

from sidecar.cel.engine import CelError
from sidecar.errors import ConfigError, RequestError
from sidecar.http.message import Request
from sidecar.llm.credentials import aws
from sidecar.llm.credentials.base import Outgoing, failed
from sidecar.llm.credentials.oauth import refused
from sidecar.llm.credentials.table import (
    SESSION_NAME,
    Making,
    aws_place,
    check_session,
    is_session_name,
    is_tag_value,
)
from sidecar.policies.base import Services
from sidecar.policies.expressions import Expression

Data = Mapping[str, Any]
_MAX_SESSIONS: Final = 8192

Computed = Callable[[Request], str]


@final
class AssumedRole:
    """Signatures with a role's credentials. See llm.credentials.base.Credential."""

    explicit_place = True
    is_last = True

    def __init__(self, value: Data, services: Services, making: Making) -> None:
        """`value`: of `aws`. Raises: ConfigError with the path below `backendAuth`."""
        if value.get("accessKeyId") is not None or value.get("secretAccessKey") is not None:
            raise ConfigError("aws.assumeRole", "cannot stand beside explicit credentials")
        self._role: Data = value["assumeRole"]
        self._value = value
        self._making = making
        self._region, self._service = aws_place(value, making.auth)
        self._base = aws.web_identity(self._region) or aws.environment()
        self._name = _name_of(self._role.get("sessionName") or SESSION_NAME, services)
        self._tags = _tags_of(self._role.get("tags") or (), services)
        self._sessions: OrderedDict[tuple[str, ...], aws.AwsSignature] = OrderedDict()

    def _signature(self, request: Outgoing) -> aws.AwsSignature:
        """Of the request's session. Raises: RequestError 400."""
        client = request.client
        if client is None:
            raise failed()
        name = self._name(client)
        tags = {key: compute(client) for key, compute in self._tags.items()}
        key = (name, *tags.values())
        found = self._sessions.get(key)
        if found is None:
            found = self._sessions[key] = self._made(name, tags)
            if len(self._sessions) > _MAX_SESSIONS:
                self._sessions.popitem(last=False)[1].close()
        else:
            self._sessions.move_to_end(key)
        return found

    def _made(self, name: str, tags: dict[str, str]) -> aws.AwsSignature:
        making, share = self._making, None
        if making.tokens is not None:
            share = aws.shared(making.tokens, making.key("aws", [self._value, name, tags]))
        fetch = aws.assumed(self._base, self._role["roleArn"], name, tags, self._region)
        return aws.AwsSignature(fetch, self._service, self._region, making.clock, share)

    def apply_nowait(self, request: Outgoing) -> bool:
        """See Credential. Raises: RequestError 400."""
        return self._signature(request).apply_nowait(request)

    async def apply(self, request: Outgoing) -> None:
        """See Credential. Raises: RequestError 400, UpstreamError 500."""
        await self._signature(request).apply(request)

    def close(self) -> None:
        """See Credential."""
        for signature in self._sessions.values():
            signature.close()


def _name_of(given: str | Data, services: Services) -> Computed:
    path = "aws.assumeRole.sessionName"
    if isinstance(given, str):
        check_session(given, {})
        return _fixed(given)
    return _computed(Expression(given["expression"], services, path), "session", is_session_name)


def _tags_of(given: Any, services: Services) -> dict[str, Computed]:
    found: dict[str, Computed] = {}
    for index, tag in enumerate(given):
        path, key = f"aws.assumeRole.tags[{index}]", tag["key"]
        value, source = tag.get("value"), tag.get("expression")
        if (value is None) == (source is None):
            raise ConfigError(path, "must set exactly one of `value`, `expression`")
        if key in found:
            raise ConfigError(path, f"{key!r} stands there already")
        if source is None:
            found[key] = _fixed(value)
            continue
        expression = Expression(source, services, f"{path}.expression")
        found[key] = _computed(expression, "tag", is_tag_value)
    check_session(SESSION_NAME, dict.fromkeys(found, ""))
    check_session(SESSION_NAME, {tag["key"]: tag["value"] for tag in given if tag.get("value")})
    return found


def _fixed(value: str) -> Computed:
    return lambda _: value


def _computed(expression: Expression, what: str, is_valid: Callable[[str], bool]) -> Computed:
    if expression.needs_request_body:
        raise ConfigError("aws.assumeRole", "the request's body cannot be read here")

    def compute(request: Request) -> str:
        try:
            value = expression.value(request)
        except (CelError, RequestError):
            value = None
        if not isinstance(value, str) or not is_valid(value):
            raise refused(f"the {what} of the role cannot be computed")
        return value

    return compute
