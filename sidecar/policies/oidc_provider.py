"""Identity providers as a login needs them: their endpoints, told by discovery or set, and keys.

Source: OpenID Connect Discovery 1.0 sections 3 and 4; OpenID Connect RP-Initiated Logout 1.0;
spec/config.md sections 3.6 and 10.1; hardening case 43.

A discovery document is the provider's word for where secrets are sent, so it is not believed
everything: the issuer is ours to the letter, nothing goes from https to http, and no endpoint is an
address that only machines in a cloud have (link-local: metadata services).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, Protocol, final
from urllib.parse import urlsplit

import orjson

from sidecar.errors import ConfigError
from sidecar.policies.base import Services
from sidecar.policies.bearer import fetched_keys
from sidecar.policies.callouts import Callout, Callouts
from sidecar.policies.kept import Start
from sidecar.policies.remote_keys import DocumentError, Fetched, RemoteKeys, reachable
from sidecar.policies.schema import nested
from sidecar.policies.tokens import KeySource
from sidecar.telemetry.clock import Clock

MAX_DOCUMENT_BYTES: Final = 64 * 1024
TokenAuth = Literal["clientSecretBasic", "clientSecretPost"]
_WELL_KNOWN: Final = "/.well-known/openid-configuration"
_URL_BYTES: Final = 2048


@final
@dataclass(frozen=True, slots=True)
class Metadata:
    """What is known of a provider before anything is reached. URLs are checked."""

    authorization: str
    token: str
    jwks: str
    """Empty: the keys are given."""
    end_session: str
    """Empty: the provider has none."""
    token_auth: TokenAuth


@final
@dataclass(frozen=True, slots=True)
class Provider:
    """A provider, ready to be asked."""

    authorization: str
    """URL to which browsers are sent."""
    end_session: str
    """The same for the end of a session; empty when there is none."""
    token_target: str
    token: Callout
    token_auth: TokenAuth
    keys: KeySource


class ProviderSource(Protocol):
    """Where a policy gets its provider. `current`: None while it is not known yet."""

    @property
    def current(self) -> Provider | None:
        """The provider as it is known now."""

    async def wait(self) -> None:
        """Until it may be known, at most some seconds."""


@final
class FixedProvider:
    """A provider that the configuration names; None where policies are only checked."""

    __slots__ = ("current",)

    def __init__(self, current: Provider | None) -> None:
        self.current = current

    async def wait(self) -> None:
        """Nothing to wait for."""


@final
class DiscoveredProvider:
    """A provider that is fetched, with its keys, over compilations (kept.KeptKeys)."""

    __slots__ = ("_callouts", "_clock", "_document", "_issuer", "_keys", "_metadata", "_start")

    def __init__(
        self, issuer: str, url: str, callouts: Callouts, clock: Clock, start: Start
    ) -> None:
        """Raises: ConfigError."""
        self._issuer = issuer
        self._callouts = callouts
        self._clock = clock
        self._start = start
        self._metadata: Metadata | None = None
        self._keys: tuple[str, RemoteKeys] | None = None
        target, callout = reachable(url, callouts)
        what = "the configuration"
        self._document = Fetched(url, target, callout, clock, start, self._read, what)

    @property
    def current(self) -> Provider | None:
        """See ProviderSource."""
        return self._document.current

    async def wait(self) -> None:
        """See ProviderSource. Begins a fetch when the last one failed."""
        if self._document.current is None and self._document.is_worth_waiting():
            await self._document.wait()

    def reach_by(self, url: str, callouts: Callouts) -> None:
        """Use the ways of the newest configuration. Raises: ConfigError."""
        self._callouts = callouts
        self._document.reach_by(reachable(url, callouts)[1])
        if self._metadata is not None and self._document.current is not None:
            self._document.current = self._connected(self._metadata)

    def close(self) -> None:
        """Fetch nothing more."""
        self._document.close()
        if self._keys is not None:
            self._keys[1].close()

    def _read(self, raw: bytes) -> Provider:
        metadata = parse_document(raw, self._issuer)
        try:
            made = self._connected(metadata)
        except ConfigError as problem:
            raise DocumentError(problem.message) from problem
        self._metadata = metadata
        return made

    def _connected(self, metadata: Metadata) -> Provider:
        """Raises: ConfigError."""
        target, callout = reachable(metadata.jwks, self._callouts)
        if self._keys is None or self._keys[0] != metadata.jwks:
            fresh = RemoteKeys(metadata.jwks, target, callout, self._clock, self._start)
            if self._keys is not None:
                self._keys[1].close()
            self._keys = (metadata.jwks, fresh)
        keys = self._keys[1]
        keys.reach_by(callout)
        return _provider(metadata, keys, self._callouts)


def discovered(issuer: str, url: str | None, services: Services) -> ProviderSource:
    """The provider behind a discovery URL, by default the issuer's. Raises: ConfigError."""
    where = url or issuer.removesuffix("/") + _WELL_KNOWN
    path = "discovery" if url else "issuer"
    keys = services.keys
    try:
        if keys is None:
            reachable(where, services.callouts)
            return FixedProvider(None)

        def make() -> DiscoveredProvider:
            assert keys is not None
            clock = services.clock
            return DiscoveredProvider(issuer, where, services.callouts, clock, keys.start)

        found = keys.keep(f"{where} {issuer}", DiscoveredProvider, make)
        found.reach_by(where, services.callouts)
    except ConfigError as problem:
        raise nested(path, problem) from problem
    return found


def given(metadata: Metadata, keys: KeySource | None, services: Services) -> ProviderSource:
    """A provider of which all is known; without `keys`, those of its JWKS. Raises: ConfigError."""
    if keys is None:
        keys = fetched_keys(metadata.jwks, services, "discovery")
    try:
        return FixedProvider(_provider(metadata, keys, services.callouts))
    except ConfigError as problem:
        raise nested("tokenEndpoint", problem) from problem


def _provider(metadata: Metadata, keys: KeySource, callouts: Callouts) -> Provider:
    target, callout = reachable(metadata.token, callouts)
    return Provider(
        metadata.authorization, metadata.end_session, target, callout, metadata.token_auth, keys
    )


# --- documents ----------------------------------------------------------------------------------


def parse_document(document: bytes | str | Mapping[str, Any], issuer: str) -> Metadata:
    """What a discovery document says. Raises: DocumentError."""
    if isinstance(document, bytes | str):
        if len(document) > MAX_DOCUMENT_BYTES:
            raise DocumentError(f"larger than {MAX_DOCUMENT_BYTES} bytes")
        try:
            document = orjson.loads(document)
        except orjson.JSONDecodeError:
            raise DocumentError("not JSON") from None
    if not isinstance(document, Mapping):
        raise DocumentError("not an object")
    if document.get("issuer") != issuer:
        raise DocumentError("its issuer is not the configured one")
    return Metadata(
        _believed(document, "authorization_endpoint", issuer),
        _believed(document, "token_endpoint", issuer),
        _believed(document, "jwks_uri", issuer),
        _believed(document, "end_session_endpoint", issuer)
        if document.get("end_session_endpoint") is not None
        else "",
        _token_auth(document.get("token_endpoint_auth_methods_supported")),
    )


def _token_auth(methods: object) -> TokenAuth:
    """Without a word on it, Basic is what there is (Discovery section 3)."""
    if methods is None:
        return "clientSecretBasic"
    if isinstance(methods, list):
        if "client_secret_basic" in methods:
            return "clientSecretBasic"
        if "client_secret_post" in methods:
            return "clientSecretPost"
    raise DocumentError("neither client_secret_basic nor client_secret_post is supported")


def _believed(document: Mapping[str, Any], name: str, issuer: str) -> str:
    value = document.get(name)
    problem = endpoint_problem(value)
    if problem or not isinstance(value, str):
        raise DocumentError(f"{name}: {problem}")
    home, there = urlsplit(issuer), urlsplit(value)
    if home.scheme == "https" and there.scheme != "https":
        raise DocumentError(f"{name}: not https, as the issuer is")
    if there.hostname != home.hostname and _is_link_local(there.hostname or ""):
        raise DocumentError(f"{name}: a link-local address")
    return value


def endpoint_problem(url: object) -> str:
    """Why this is no endpoint; empty when it is one."""
    if not isinstance(url, str) or not url:
        return "missing"
    if len(url) > _URL_BYTES or not url.isascii() or not url.isprintable():
        return "not a URL"
    if any(one in url for one in ' "<>\\^`{|}'):
        return "not a URL"
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return "expected http://host/path or https://host/path"
        if parts.username is not None or parts.fragment or parts.port == 0:
            return "user info and fragments are not supported"
    except ValueError:
        return "not a URL"
    return ""


def _is_link_local(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        # Other spellings of addresses (decimal, octal, hexadecimal) are no names either.
        return host.rpartition(".")[2][:1].isdigit()
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_link_local
