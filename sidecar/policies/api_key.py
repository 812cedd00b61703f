"""Knows clients by static keys: what they are called, which models they may use, what they spend.

Source: spec/config.md sections 0.3, 3.6 and 11; spec/llm.md sections 4.4 and 4.5.

Of a key only its SHA-256 is kept. It is looked up by that, so that the time a lookup takes tells
nothing of any key, and the digest that is found is compared once more in constant time.
"""

from __future__ import annotations

import hmac
from dataclasses import replace
from hashlib import sha256
from typing import Any, Final, final

from pydantic import Field, model_validator

from sidecar.config.model.auth import AuthMode
from sidecar.errors import ConfigError, RequestError
from sidecar.http.message import Request, Response
from sidecar.llm.names import ALLOWED, AllowedModels
from sidecar.policies.allowances import Allowance, Budget
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.location import HeaderPlace, Location, source_of
from sidecar.policies.schema import PolicyConfig, nested
from sidecar.policies.spending import MAX_BUDGETS, Spending

_STATE: Final = "apiKey"
_CREDENTIAL: Final = "apiKey.key"
_PLACE: Final = "apiKey"
"""Under which spending is kept: a key is the same wherever the configuration names it."""
_HASH: Final = "sha256:"
_DIGEST_BYTES: Final = 32
_MAX_NAME_BYTES: Final = 40
_NOTHING: Final = sha256(b"").digest()
_FAILURE: Final = "api key authentication failure: "
_MISSING: Final = _FAILURE + "no API Key found"
_INVALID: Final = _FAILURE + "invalid credentials"


class Entry(PolicyConfig):
    """A key."""

    key: str | None = Field(default=None, min_length=1)
    """The key itself; or `keyHash`."""
    key_hash: str | None = None
    """`sha256:` and 64 hexadecimal digits."""
    metadata: Any = None
    """A mapping: what CEL sees as `apiKey.*`. Anything else is accepted, and seen by nobody, since
    it has no fields. Default: nothing."""
    allowed_models: list[str] | None = None
    """Names of models, `prefix*`, `*suffix` or `*`. Default: any; an empty list: none."""
    budgets: list[Allowance] = Field(default_factory=list, max_length=MAX_BUDGETS)
    """What may be spent with keys of this `metadata.name`. Default: anything."""

    @model_validator(mode="after")
    def _one(self) -> Entry:
        if (self.key is None) == (self.key_hash is None):
            raise ValueError("must set exactly one of `key`, `keyHash`")
        return self


class Config(PolicyConfig):
    """The keys, and where requests carry them."""

    keys: list[Entry]
    """The keys that are valid, each once."""
    mode: AuthMode = "optional"
    """strict: a valid key or 401; optional (default): none is fine too, a wrong one is not;
    permissive: anything passes."""
    location: Location = Location(header=HeaderPlace(name="authorization", prefix="Bearer "))
    """Default: header `authorization` with prefix `Bearer `."""


@final
class _Key:
    """A key made ready."""

    __slots__ = ("allowed", "digest", "metadata", "spending")

    def __init__(self, entry: Entry, digest: bytes, services: Services) -> None:
        self.digest = digest
        self.metadata = _fields_of(entry)
        models = entry.allowed_models
        self.allowed = None if models is None else AllowedModels(models)
        self.spending = _spending(entry, services) if entry.budgets else None


@final
class ApiKey:
    """Refuses with 401, or notes whose key it was and takes it out of the request."""

    __slots__ = (
        "_is_strict",
        "_keys",
        "_rejects_invalid",
        "_source",
        "is_guard",
        "needs_request_body",
        "on_request",
    )

    def __init__(self, config: Config, services: Services) -> None:
        try:
            self._source = source_of(config.location, services)
        except ConfigError as problem:
            raise nested("location", problem) from problem
        self._keys = _keys(config, services)
        self._is_strict = config.mode == "strict"
        self._rejects_invalid = config.mode != "permissive"
        self.needs_request_body = self._source.needs_request_body
        spends = any(key.spending is not None for key in self._keys.values())
        is_leased = spends and services.leases is not None
        # A direct call's target is fixed.
        self.is_guard = (
            self._source.keeps_target and not is_leased and not self._source.needs_request_body
        )
        self.on_request = self._on_request_leased if is_leased else self._on_request

    def _on_request(self, request: Request) -> Response | None:
        """Raises: RequestError 401, and as budgets do."""
        spending = self._admitted(request)
        if spending is None:
            return None
        answer = spending.on_request(request)
        assert answer is None or isinstance(answer, Response)
        return answer

    async def _on_request_leased(self, request: Request) -> Response | None:
        """As `_on_request`, where budgets are those of several gateways."""
        spending = self._admitted(request)
        if spending is None:
            return None
        answer = spending.on_request(request)
        return answer if answer is None or isinstance(answer, Response) else await answer

    def _admitted(self, request: Request) -> Spending | None:
        """The budgets of the request's key, if it has both."""
        given = self._source.read(request)
        if given is None:
            if self._is_strict:
                raise RequestError(401, "APIKeyAuth", _MISSING)
            return None
        digest = sha256(given).digest()
        key = self._keys.get(digest)
        if key is None or not hmac.compare_digest(key.digest, digest):
            if self._rejects_invalid:
                raise RequestError(401, "APIKeyAuth", _INVALID)
            return None
        state = request.state
        state[_STATE] = key.metadata
        state[_CREDENTIAL] = given.decode("utf-8", "replace")
        if key.allowed is not None:
            # A key of the gateway's and one of the route's: neither widens what the other allows.
            earlier = state.get(ALLOWED)
            state[ALLOWED] = (
                earlier.within(key.allowed) if isinstance(earlier, AllowedModels) else key.allowed
            )
        self._source.remove(request)
        return key.spending


def _keys(config: Config, services: Services) -> dict[bytes, _Key]:
    made: dict[bytes, _Key] = {}
    places: dict[bytes, int] = {}
    budgets: dict[str, tuple[int, list[Allowance]]] = {}
    for number, entry in enumerate(config.keys):
        try:
            digest = _digest(entry)
            if digest in places:
                raise ConfigError("", f"keys[{places[digest]}] is the same key")
            places[digest] = number
            made[digest] = _Key(entry, digest, services)
            if entry.budgets:
                first, same = budgets.setdefault(_name_of(entry), (number, entry.budgets))
                if same != entry.budgets:
                    text = f"keys[{first}] has the same metadata.name and other budgets"
                    raise ConfigError("budgets", text)
        except ConfigError as problem:
            raise nested(f"keys[{number}]", problem) from problem
    return made


def _digest(entry: Entry) -> bytes:
    """Raises: ConfigError, which repeats nothing of the key."""
    if entry.key is not None:
        return sha256(entry.key.encode()).digest()
    text = entry.key_hash or ""
    digits = text.removeprefix(_HASH)
    try:
        digest = bytes.fromhex(digits) if digits != text and " " not in digits else b""
    except ValueError:
        digest = b""
    if len(digest) != _DIGEST_BYTES:
        raise ConfigError("keyHash", "must be `sha256:` and 64 hexadecimal digits")
    if digest == _NOTHING:
        raise ConfigError("keyHash", "the hash of no key at all")
    return digest


def _spending(entry: Entry, services: Services) -> Spending:
    """Raises: ConfigError."""
    if not services.keeps_spending:
        text = "API key budgets require config.database or config.state.journal to be configured"
        raise ConfigError("budgets", text)
    name = _name_of(entry)
    budgets = [
        Budget.model_construct(
            name=one.name,
            limit=one.limit,
            window=one.window,
            on_budget_exceeded=one.on_budget_exceeded,
        )
        for one in entry.budgets
    ]
    try:
        placed = replace(services, attachment=_PLACE)
        return Spending(budgets, placed, name.encode())
    except ConfigError as problem:
        raise nested("budgets", problem) from problem


def _fields_of(entry: Entry) -> dict[str, Any]:
    return entry.metadata if isinstance(entry.metadata, dict) else {}


def _name_of(entry: Entry) -> str:
    name = _fields_of(entry).get("name")
    if not isinstance(name, str) or not name:
        raise ConfigError("metadata", "API keys with budgets must have a metadata.name")
    if len(name.encode()) > _MAX_NAME_BYTES or not name.isprintable():
        raise ConfigError("metadata.name", f"at most {_MAX_NAME_BYTES} octets, all printable")
    return name


KIND = PolicyKind("apiKey", Config, ApiKey)
