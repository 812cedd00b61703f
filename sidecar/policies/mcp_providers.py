"""What identity providers do differently, for MCP clients that log in at them through the gateway.

Source: spec/config.md section 6.5; spec/mcp_a2a.md sections 1.5 and 2.9; RFC 8414; OpenID Connect
Discovery; RFC 7591; RFC 9207.

Nothing here is sent or awaited: addresses and documents come in and go out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, final
from urllib.parse import parse_qsl, urlencode, urlsplit

from sidecar.errors import ConfigError

Product = Literal["auth0", "keycloak", "okta", "descope", "authentik", "entra"]

_OAUTH: Final = "/.well-known/oauth-authorization-server"
_OIDC: Final = "/.well-known/openid-configuration"
_WITH_AUDIENCE: Final = frozenset(("auth0", "okta"))
_WITH_REGISTRATION: Final = frozenset(("keycloak", "okta", "descope"))
"""Those whose own registration is behind the gateway's, since it allows no other origins."""
_ENTRA_OLD_ISSUER: Final = "sts.windows.net"
_ENTRA_HOST: Final = "https://login.microsoftonline.com"
_UNTRUE: Final = ("signed_metadata", "authorization_response_iss_parameter_supported")
"""Said by the provider of itself: its signature, and that it names itself in answers (RFC 9207),
which a client that was told of the gateway as issuer would take for a mix-up attack."""


class Urls(NamedTuple):
    """Where the gateway is reached, as the client sees it."""

    issuer: str
    """Stands for the provider: scheme, authority and the path of the MCP endpoint."""
    metadata: str
    """Of the authorization server's metadata; what the gateway serves of it is below."""


@final
class Provider:
    """One authorization server. Raises: ConfigError with a path below the policy."""

    __slots__ = ("_audience", "_client_id", "_issuer", "_origin", "_path", "_product")

    def __init__(
        self, issuer: str, product: Product | None, audience: str, client_id: str | None
    ) -> None:
        try:
            parts = urlsplit(issuer)
            is_plain = not (parts.query or parts.fragment or parts.username or parts.password)
        except ValueError:
            raise ConfigError("issuer", "not a URL") from None
        if parts.scheme not in ("http", "https") or not parts.hostname or not is_plain:
            raise ConfigError("issuer", "expected http(s)://host/path without query and user info")
        self._issuer = issuer.removesuffix("/")
        self._origin = f"{parts.scheme}://{parts.netloc}"
        self._path = parts.path.rstrip("/")
        self._product = product
        self._audience = audience
        self._client_id = client_id
        if product == "entra" and parts.hostname == _ENTRA_OLD_ISSUER:
            self._origin = _ENTRA_HOST
        if product in ("entra", "descope") and not self._path:
            raise ConfigError("issuer", f"{product}: the path must name the tenant or project")

    @property
    def is_fronted(self) -> bool:
        """Whether clients see the gateway in the provider's place."""
        return self._product is not None or self._client_id is not None

    @property
    def is_entra(self) -> bool:
        """Whether logins and tokens pass through the gateway too."""
        return self._product == "entra"

    def jwks_url(self) -> str:
        """Where the keys are, when nothing else is said."""
        product = self._product
        if product == "keycloak":
            return f"{self._issuer}/protocol/openid-connect/certs"
        if product == "authentik":
            return f"{self._issuer}/jwks/"
        if product == "entra":
            return f"{self._origin}/{self._tenant}/discovery/v2.0/keys"
        if product == "descope":
            project, _ = self._descope()
            return f"{self._origin}/{project}/.well-known/jwks.json"
        return f"{self._issuer}/.well-known/jwks.json"

    def metadata_urls(self) -> list[str]:
        """Where its metadata may be: of OAuth, of OpenID, each way to place the path."""
        found = [f"{self._origin}{_OAUTH}{self._path}", f"{self._issuer}{_OAUTH}"]
        found += [f"{self._origin}{_OIDC}{self._path}", f"{self._issuer}{_OIDC}"]
        if self._issuer != self._origin + self._path:
            # An issuer of another name than its host.
            found = [f"{self._origin}/{self._tenant}{_OIDC}"]
        return list(dict.fromkeys(found))

    def registration_url(self) -> str | None:
        """Where clients are registered through the gateway; None: not through it."""
        if self._client_id is not None:
            return None
        if self._product == "keycloak":
            return f"{self._issuer}/clients-registrations/openid-connect"
        if self._product == "okta":
            return f"{self._origin}/oauth2/v1/clients"
        if self._product == "descope":
            project, server = self._descope()
            if server is not None:
                return f"{self._origin}/v1/mgmt/mcp/client/{project}/{server}/register"
            return f"{self._origin}/v1/mgmt/inboundapp/app/{project}/register"
        return None

    def authorize_url(self) -> str:
        """Of entra: where users log in."""
        return f"{self._origin}/{self._tenant}/oauth2/v2.0/authorize"

    def token_url(self) -> str:
        """Of entra: where tokens are had."""
        return f"{self._origin}/{self._tenant}/oauth2/v2.0/token"

    @property
    def _tenant(self) -> str:
        return self._path.lstrip("/").partition("/")[0]

    def _descope(self) -> tuple[str, str | None]:
        """Project and MCP server, of `/v1/apps/agentic/<project>/<server>` or `…/<project>`."""
        head, _, rest = self._path.partition("/agentic/")
        if rest:
            project, _, server = rest.partition("/")
            return project, server.partition("/")[0] or None
        return head.rpartition("/")[2], None

    def is_issuer(self, name: object) -> bool:
        """Whether metadata with this `issuer` is the provider's."""
        return isinstance(name, str) and name.removesuffix("/") == self._issuer

    def adapted(self, metadata: Mapping[str, Any], urls: Urls) -> dict[str, Any]:
        """Its metadata as clients get it."""
        made = dict(metadata)
        if not self.is_fronted:
            return made
        for name in _UNTRUE:
            made.pop(name, None)
        made["issuer"] = urls.issuer
        if self._product in _WITH_AUDIENCE and isinstance(made.get("authorization_endpoint"), str):
            # Else its tokens are for no API, and opaque.
            made["authorization_endpoint"] = _with(
                made["authorization_endpoint"], "audience", self._audience
            )
        if self._client_id is not None or self._product in _WITH_REGISTRATION:
            made["registration_endpoint"] = f"{urls.metadata}/client-registration"
        if self._product == "entra":
            made["authorization_endpoint"] = f"{urls.metadata}/authorize"
            made["token_endpoint"] = f"{urls.metadata}/token"
            # It can, but does not say so, and clients must not go on without.
            made["code_challenge_methods_supported"] = ["S256"]
        return made


def _with(url: str, name: str, value: str) -> str:
    """A URL with one more parameter, unless it has that."""
    head, mark, query = url.partition("?")
    if mark and name in dict(parse_qsl(query)):
        return url
    return (
        f"{head}?{query}&{urlencode({name: value})}"
        if query
        else f"{head}?{urlencode({name: value})}"
    )
