"""From the `backendAuth` payload, or a provider's default, to a credential.

Source: spec config section 3.12; spec llm section 1.5. Kinds that need the client's own token
(`passthrough`, `oauthTokenExchange`, `crossAppAccess`) and `jwtSign` are not made here.

The clouds' modules are imported by who needs them: their libraries take 0.15 s to load, which the
start of every other gateway would pay.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from sidecar.errors import ConfigError
from sidecar.llm.credentials.base import Credential
from sidecar.llm.credentials.static import Put, StaticKeys, placing
from sidecar.llm.credentials.token import BearerToken
from sidecar.llm.providers.base import DefaultAuth
from sidecar.telemetry.clock import Clock

if TYPE_CHECKING:
    from sidecar.llm.credentials import aws

Data = Mapping[str, Any]
KINDS: Final = frozenset(("key", "gcp", "aws", "azure", "copilot", "credentials"))
"""What `configured` makes."""
_SESSION: Final = re.compile(r"[\w+=,.@-]{2,64}", re.ASCII)
_MAX_TAGS: Final = 50
_NO_DEFAULT: Final = DefaultAuth()
_AZURE_SCOPE: Final = "https://cognitiveservices.azure.com/.default"


def default_credential(auth: DefaultAuth, clock: Clock) -> Credential | None:
    """What authenticates at a provider when nothing is configured; None: nothing."""
    if auth.kind == "aws":
        from sidecar.llm.credentials import aws

        return aws.AwsSignature(aws.environment(), auth.service, auth.region, clock)
    if auth.kind == "gcp":
        from sidecar.llm.credentials import gcp

        return BearerToken("gcp", gcp.access_token(), clock)
    if auth.kind == "azure":
        from sidecar.llm.credentials import azure

        return BearerToken("azure", azure.implicit(auth.scope), clock)
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
    payload: Data | str, clock: Clock, *, auth: DefaultAuth = _NO_DEFAULT, host: str = ""
) -> list[Credential]:
    """The credentials of a `backendAuth` payload, in the order to apply them.

    `auth`: the provider's default, for what the payload leaves open. `host`: the destination's, the
    audience of identity tokens. Raises: ConfigError with the path below `backendAuth`.
    """
    if isinstance(payload, str):
        payload = {payload: {}}
    made: list[Credential] = []
    extra = payload.get("credentials")
    if extra:
        puts = [
            placing(item["location"], _text(item["key"]), f"credentials[{index}]")
            for index, item in enumerate(extra)
        ]
        made.append(StaticKeys(puts, explicit_place=True))
    for kind, value in payload.items():
        if kind == "credentials" or value is None:
            continue
        make = _MAKERS.get(kind)
        if make is None:
            raise ConfigError(kind, "this kind of credential is not supported here")
        made.append(make(value, clock, auth, host))
    # A signature covers what the others wrote.
    return sorted(made, key=lambda credential: credential.is_last)


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError("key", "the key's file was not read")
    return value.strip()


def _key(value: Any, clock: Clock, auth: DefaultAuth, host: str) -> Credential:
    location = None
    if isinstance(value, Mapping) and "value" in value:
        location, value = value.get("location"), value["value"]
    put: Put = placing(location, _text(value), "key")
    return StaticKeys((put,), explicit_place=location is not None)


def _gcp(value: Data, clock: Clock, auth: DefaultAuth, host: str) -> Credential:
    from sidecar.llm.credentials import gcp

    text = value.get("credential")
    info = None if text is None else gcp.document(_text(text), "gcp.credential")
    if value.get("type") != "idToken":
        if value.get("audience") is not None:
            raise ConfigError("gcp.audience", "only for an idToken")
        return BearerToken("gcp", gcp.access_token(info), clock)
    audience = value.get("audience") or (f"https://{host}" if host else "")
    if not audience:
        raise ConfigError("gcp.audience", "required: the destination has no name")
    return BearerToken("gcp", gcp.identity_token(audience, info), clock)


def _aws(value: Data, clock: Clock, auth: DefaultAuth, host: str) -> Credential:
    from sidecar.llm.credentials import aws

    region = value.get("region") or auth.region
    service = value.get("serviceName") or auth.service
    if not region or not service:
        raise ConfigError("aws", "`region` and `serviceName` are required for this destination")
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
    fetch = aws.environment()
    if role is not None:
        fetch = _assumed(fetch, role, region)
    return aws.AwsSignature(fetch, service, region, clock)


def _assumed(base: aws.Fetch, role: Data, region: str) -> aws.Fetch:
    from sidecar.llm.credentials import aws

    name = role.get("sessionName") or "agentgateway"
    if not isinstance(name, str):
        raise ConfigError("aws.assumeRole.sessionName", "an expression is not supported yet")
    if not _SESSION.fullmatch(name):
        raise ConfigError("aws.assumeRole.sessionName", "2 to 64 of `[\\w+=,.@-]` expected")
    tags: dict[str, str] = {}
    for index, tag in enumerate(role.get("tags") or ()):
        if tag.get("value") is None:
            raise ConfigError(f"aws.assumeRole.tags[{index}]", "only static values are supported")
        tags[tag["key"]] = tag["value"]
    if len(tags) > _MAX_TAGS:
        raise ConfigError("aws.assumeRole.tags", f"at most {_MAX_TAGS}")
    return aws.assumed(base, role["roleArn"], name, tags, region)


def _azure(value: Data, clock: Clock, auth: DefaultAuth, host: str) -> Credential:
    from sidecar.llm.credentials import azure

    scope = auth.scope or _AZURE_SCOPE
    if value.get("developerImplicit") is not None:
        return BearerToken("azure", azure.developer(scope), clock)
    explicit = value.get("explicitConfig")
    if explicit is None:
        return BearerToken("azure", azure.implicit(scope), clock)
    if (secret := explicit.get("clientSecret")) is not None:
        fetch = azure.client_secret(
            secret["tenant_id"], secret["client_id"], _text(secret["client_secret"]), scope
        )
    elif (identity := explicit.get("managedIdentity")) is not None:
        fetch = azure.managed_identity(scope, identity.get("userAssignedIdentity"))
    else:
        fetch = azure.workload_identity(scope)
    return BearerToken("azure", fetch, clock)


def _copilot(value: Data, clock: Clock, auth: DefaultAuth, host: str) -> Credential:
    from sidecar.llm.credentials import copilot

    return BearerToken("copilot", copilot.discover(), clock)


_MAKERS: Final = {"key": _key, "gcp": _gcp, "aws": _aws, "azure": _azure, "copilot": _copilot}
