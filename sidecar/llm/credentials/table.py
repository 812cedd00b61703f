"""From the `backendAuth` payload, or a provider's default, to a credential.

Source: spec config section 3.12; spec llm section 1.5. Kinds that need the client's own token or
expressions (`passthrough`, `oauthTokenExchange`, `crossAppAccess`, some roles of AWS) are made by
whoever has those (gateway.credentials), and given here as `others`.

The clouds' modules are imported by who needs them: their libraries take 0.15 s to load, which the
start of every other gateway would pay.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import orjson

from sidecar.errors import ConfigError
from sidecar.llm.credentials.base import Credential, Sharing
from sidecar.llm.credentials.shared import Share, SharedTokens
from sidecar.llm.credentials.static import Put, StaticKeys, placing
from sidecar.llm.credentials.token import BearerToken
from sidecar.llm.providers.base import DefaultAuth
from sidecar.telemetry.clock import Clock

if TYPE_CHECKING:
    from sidecar.llm.credentials import aws

Data = Mapping[str, Any]
Maker = Callable[[Any], Credential | None]
"""Makes a kind from its value; None: it leaves it to this module."""
_SESSION: Final = re.compile(r"[\w+=,.@-]{2,64}", re.ASCII)
_MAX_TAGS: Final = 50
_TAG_KEY: Final = re.compile(r"[\w .:/=+@-]{1,128}")
_TAG_VALUE: Final = re.compile(r"[\w .:/=+@-]{0,256}")
_NO_DEFAULT: Final = DefaultAuth()
_AZURE_SCOPE: Final = "https://cognitiveservices.azure.com/.default"


@final
@dataclass(frozen=True, slots=True)
class Making:
    """What credentials are made with, beside their own configuration."""

    clock: Clock
    auth: DefaultAuth = _NO_DEFAULT
    """The provider's default, for what the configuration leaves open."""
    host: str = ""
    """The destination's, the audience of identity tokens."""
    tokens: SharedTokens | None = None
    """Where tokens of all workers are; None: each worker fetches its own."""

    def share(self, kind: str, value: object) -> Sharing[str] | None:
        """How workers share a text token of this configuration."""
        if self.tokens is None:
            return None
        return Share(self.tokens, self.key(kind, value), str.encode, bytes.decode)

    def key(self, kind: str, value: object) -> bytes:
        """The key of what this configuration gives; only with `tokens`."""
        assert self.tokens is not None
        text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
        return self.tokens.key(kind.encode(), text, repr(self.auth).encode(), self.host.encode())


def default_credential(
    auth: DefaultAuth, clock: Clock, tokens: SharedTokens | None = None
) -> Credential | None:
    """What authenticates at a provider when nothing is configured; None: nothing."""
    making = Making(clock, auth, "", tokens)
    if auth.kind == "aws":
        from sidecar.llm.credentials import aws

        fetch = aws.web_identity(auth.region)
        if fetch is None:
            return aws.AwsSignature(aws.environment(), auth.service, auth.region, clock)
        shared = None if tokens is None else aws.shared(tokens, making.key("aws", None))
        return aws.AwsSignature(fetch, auth.service, auth.region, clock, shared)
    if auth.kind == "gcp":
        from sidecar.llm.credentials import gcp

        return BearerToken("gcp", gcp.access_token(), clock, making.share("gcp", None))
    if auth.kind == "azure":
        from sidecar.llm.credentials import azure

        share = making.share("azure", None)
        return BearerToken("azure", azure.implicit(auth.scope), clock, share)
    if auth.kind == "copilot":
        from sidecar.llm.credentials import copilot

        return BearerToken("copilot", copilot.discover(), clock)
    return None


def api_key(key: str, path: str = "params.apiKey") -> Credential:
    """`params.apiKey`: a bearer token, which the provider moves to its own header.

    Raises: ConfigError.
    """
    return StaticKeys((placing(None, key, path),), explicit_place=False)


def configured(
    payload: Data | str,
    clock: Clock,
    *,
    auth: DefaultAuth = _NO_DEFAULT,
    host: str = "",
    tokens: SharedTokens | None = None,
    others: Mapping[str, Maker] | None = None,
) -> list[Credential]:
    """The credentials of a `backendAuth` payload, in the order to apply them.

    `auth`, `host`, `tokens`: see Making. `others`: kinds that are made elsewhere, or in part.
    Raises: ConfigError with the path below `backendAuth`.
    """
    if isinstance(payload, str):
        payload = {payload: {}}
    making = Making(clock, auth, host, tokens)
    made: list[Credential] = []
    extra = payload.get("credentials")
    if extra:
        puts = [
            placing(item["location"], _text(item["key"]), f"credentials[{index}]")
            for index, item in enumerate(extra)
        ]
        made.append(StaticKeys(puts, explicit_place=True))
    for kind, value in payload.items():
        if kind != "credentials" and value is not None:
            made.append(_made(kind, value, making, others or {}))
    # A signature covers what the others wrote.
    return sorted(made, key=lambda credential: credential.is_last)


def _made(kind: str, value: Any, making: Making, others: Mapping[str, Maker]) -> Credential:
    other = others.get(kind)
    found = None if other is None else other(value)
    if found is not None:
        return found
    make = _MAKERS.get(kind)
    if make is None:
        raise ConfigError(kind, "this kind of credential is not supported here")
    return make(value, making)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError("key", "the key's file was not read")
    return value.strip()


def _key(value: Any, making: Making) -> Credential:
    location = None
    if isinstance(value, Mapping) and "value" in value:
        location, value = value.get("location"), value["value"]
    put: Put = placing(location, _text(value), "key")
    return StaticKeys((put,), explicit_place=location is not None)


def _gcp(value: Data, making: Making) -> Credential:
    from sidecar.llm.credentials import gcp

    clock, host = making.clock, making.host
    text = value.get("credential")
    info = None if text is None else gcp.document(_text(text), "gcp.credential")
    share = making.share("gcp", value)
    if value.get("type") != "idToken":
        if value.get("audience") is not None:
            raise ConfigError("gcp.audience", "only for an idToken")
        return BearerToken("gcp", gcp.access_token(info), clock, share)
    audience = value.get("audience") or (f"https://{host}" if host else "")
    if not audience:
        raise ConfigError("gcp.audience", "required: the destination has no name")
    return BearerToken("gcp", gcp.identity_token(audience, info), clock, share)


def _aws(value: Data, making: Making) -> Credential:
    from sidecar.llm.credentials import aws

    clock = making.clock
    region, service = aws_place(value, making.auth)
    key, secret = value.get("accessKeyId"), value.get("secretAccessKey")
    role = value.get("assumeRole")
    if (key is None) != (secret is None):
        raise ConfigError("aws", "`accessKeyId` and `secretAccessKey` go together")
    if key is not None:
        if role is not None:
            raise ConfigError("aws.assumeRole", "cannot stand beside explicit credentials")
        token = value.get("sessionToken")
        fixed = aws.fixed(_text(key), _text(secret), None if token is None else _text(token))
        return aws.AwsSignature(fixed, service, region, clock)
    workload = aws.web_identity(region)
    fetch = workload or aws.environment()
    share = None
    if making.tokens is not None and (workload is not None or role is not None):
        # What is in the environment or in files each worker has at hand.
        share = aws.shared(making.tokens, making.key("aws", value))
    if role is not None:
        fetch = _assumed(fetch, role, region)
    return aws.AwsSignature(fetch, service, region, clock, share)


def aws_place(value: Data, auth: DefaultAuth) -> tuple[str, str]:
    """Region and service of a signature. Raises: ConfigError."""
    from sidecar.llm.credentials import aws

    service = value.get("serviceName") or auth.service
    region = value.get("region") or auth.region or aws.ambient_region()
    if not region or not service:
        raise ConfigError("aws", "`region` and `serviceName` are required for this destination")
    return region, service


def _assumed(base: aws.Fetch, role: Data, region: str) -> aws.Fetch:
    from sidecar.llm.credentials import aws

    name = role.get("sessionName") or SESSION_NAME
    if not isinstance(name, str):
        raise ConfigError("aws.assumeRole.sessionName", "an expression is not supported here")
    tags: dict[str, str] = {}
    for index, tag in enumerate(role.get("tags") or ()):
        if tag.get("value") is None:
            raise ConfigError(
                f"aws.assumeRole.tags[{index}]", "an expression is not supported here"
            )
        tags[tag["key"]] = tag["value"]
    check_session(name, tags)
    return aws.assumed(base, role["roleArn"], name, tags, region)


SESSION_NAME: Final = "agentgateway"
"""Of a role's session that is given no other."""


def check_session(name: str, tags: Data) -> None:
    """What AWS would refuse of a role's session. Raises: ConfigError."""
    path = "aws.assumeRole"
    if not is_session_name(name):
        raise ConfigError(f"{path}.sessionName", "2 to 64 of `[\\w+=,.@-]` expected")
    if len(tags) > _MAX_TAGS:
        raise ConfigError(f"{path}.tags", f"at most {_MAX_TAGS}")
    for key, value in tags.items():
        if not _TAG_KEY.fullmatch(key) or key.lower().startswith("aws:"):
            raise ConfigError(f"{path}.tags", f"{key!r} is no name of a session tag")
        if not is_tag_value(value):
            raise ConfigError(f"{path}.tags", f"the value of {key!r} is none of a session tag")


def is_session_name(name: str) -> bool:
    """Whether AWS takes it for the name of a role's session."""
    return _SESSION.fullmatch(name) is not None


def is_tag_value(value: str) -> bool:
    """Whether AWS takes it for the value of a session tag."""
    return _TAG_VALUE.fullmatch(value) is not None


def _azure(value: Data, making: Making) -> Credential:
    from sidecar.llm.credentials import azure

    clock, scope = making.clock, making.auth.scope or _AZURE_SCOPE
    share = making.share("azure", value)
    if value.get("developerImplicit") is not None:
        return BearerToken("azure", azure.developer(scope), clock, share)
    explicit = value.get("explicitConfig")
    if explicit is None:
        return BearerToken("azure", azure.implicit(scope), clock, share)
    if (secret := explicit.get("clientSecret")) is not None:
        fetch = azure.client_secret(
            secret["tenant_id"], secret["client_id"], _text(secret["client_secret"]), scope
        )
    elif (identity := explicit.get("managedIdentity")) is not None:
        fetch = azure.managed_identity(scope, identity.get("userAssignedIdentity"))
    else:
        fetch = azure.workload_identity(scope)
    return BearerToken("azure", fetch, clock, share)


def _copilot(value: Data, making: Making) -> Credential:
    from sidecar.llm.credentials import copilot
    from sidecar.llm.providers.copilot import HEADERS

    return BearerToken("copilot", copilot.discover(), making.clock, None, HEADERS)


def _jwt_sign(value: Data, making: Making) -> Credential:
    from sidecar.llm.credentials.jwt_sign import JwtSigned

    return JwtSigned(value, making.clock)


_MAKERS: Final = {
    "key": _key,
    "gcp": _gcp,
    "aws": _aws,
    "azure": _azure,
    "copilot": _copilot,
    "jwtSign": _jwt_sign,
}
