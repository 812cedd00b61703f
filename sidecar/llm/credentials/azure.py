"""Microsoft Entra tokens: an application's secret, a federated workload, or a managed identity.

Source: Microsoft identity platform documentation (OAuth 2.0 client credentials, managed identities
for virtual machines and App Service, workload identity); spec config section 3.12.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote, urlencode

import orjson

from sidecar.llm.credentials import http
from sidecar.llm.credentials.base import CredentialError, Fetched

_PUBLIC: Final = "https://login.microsoftonline.com"
_IMDS: Final = "http://169.254.169.254/metadata/identity/oauth2/token"
_ASSERTION: Final = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
_IDENTITY_NAMES: Final = {
    "clientId": "client_id",
    "objectId": "object_id",
    "resourceId": "mi_res_id",
    "client_id": "client_id",
    "object_id": "object_id",
    "resource_id": "mi_res_id",
}

Fetch = Callable[[], Fetched[str]]
Environment = Mapping[str, str]


def client_secret(tenant: str, client: str, secret: str, scope: str, host: str = _PUBLIC) -> Fetch:
    """Fetches tokens with an application's secret."""
    return lambda: _token(host, tenant, {"client_id": client, "client_secret": secret}, scope)


def workload_identity(scope: str, environment: Environment = os.environ) -> Fetch:
    """Fetches tokens with the platform's signed statement, named by `AZURE_FEDERATED_TOKEN_FILE`,
    `AZURE_CLIENT_ID` and `AZURE_TENANT_ID`."""

    def fetch() -> Fetched[str]:
        names = ("AZURE_FEDERATED_TOKEN_FILE", "AZURE_CLIENT_ID", "AZURE_TENANT_ID")
        path, client, tenant = (environment.get(name, "") for name in names)
        if not (path and client and tenant):
            raise CredentialError("no workload identity in the environment")
        try:
            # Read each time: the platform renews it.
            assertion = Path(path).read_text(encoding="ascii").strip()
        except (OSError, ValueError) as exc:
            raise CredentialError(f"federated token file: {type(exc).__name__}") from exc
        form = {
            "client_id": client,
            "client_assertion": assertion,
            "client_assertion_type": _ASSERTION,
        }
        host = environment.get("AZURE_AUTHORITY_HOST") or _PUBLIC
        return _token(host.rstrip("/"), tenant, form, scope)

    return fetch


def managed_identity(
    scope: str, which: Mapping[str, str] | None = None, environment: Environment = os.environ
) -> Fetch:
    """Fetches tokens from the machine. `which`: `{clientId | objectId | resourceId}`, else the
    system's own."""
    resource = scope.removesuffix("/.default")
    chosen = {_IDENTITY_NAMES[key]: value for key, value in (which or {}).items() if value}

    def fetch() -> Fetched[str]:
        endpoint, secret = (
            environment.get(name, "") for name in ("IDENTITY_ENDPOINT", "IDENTITY_HEADER")
        )
        if endpoint and secret:
            query = {"api-version": "2019-08-01", "resource": resource, **chosen}
            headers = {"x-identity-header": secret}
        else:
            endpoint, headers = _IMDS, {"metadata": "true"}
            query = {"api-version": "2018-02-01", "resource": resource, **chosen}
        url = f"{endpoint}?{urlencode(query)}"
        status, _, body = http.send("GET", url, headers, direct=True)
        return http.token_of(url, status, body)

    return fetch


def developer(scope: str) -> Fetch:
    """Fetches tokens from the Azure CLI's login."""

    def fetch() -> Fetched[str]:
        tool = shutil.which("az")
        if tool is None:
            raise CredentialError("the Azure CLI is not installed")
        command = [tool, "account", "get-access-token", "--output", "json", "--scope", scope]
        try:
            done = subprocess.run(  # noqa: S603 - fixed arguments, no shell
                command, capture_output=True, timeout=http.SECONDS, check=True
            )
            answer: Any = orjson.loads(done.stdout)
            token, until = answer["accessToken"], float(answer["expires_on"])
        except (subprocess.SubprocessError, OSError) as exc:
            raise CredentialError(f"Azure CLI: {type(exc).__name__}") from exc
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as exc:
            raise CredentialError("the Azure CLI gave no token") from exc
        return Fetched.lasting(str(token), until - datetime.now(UTC).timestamp())

    return fetch


def implicit(scope: str, environment: Environment = os.environ) -> Fetch:
    """What the environment offers: an application's secret, a workload's identity, a machine's."""

    def fetch() -> Fetched[str]:
        names = ("AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET")
        tenant, client, secret = (environment.get(name, "") for name in names)
        if tenant and client and secret:
            host = (environment.get("AZURE_AUTHORITY_HOST") or _PUBLIC).rstrip("/")
            return client_secret(tenant, client, secret, scope, host)()
        if environment.get("AZURE_FEDERATED_TOKEN_FILE"):
            return workload_identity(scope, environment)()
        which = {"clientId": client} if client else None
        return managed_identity(scope, which, environment)()

    return fetch


def _token(host: str, tenant: str, who: Mapping[str, str], scope: str) -> Fetched[str]:
    url = f"{host}/{quote(tenant, safe='')}/oauth2/v2.0/token"
    form = urlencode({"grant_type": "client_credentials", "scope": scope, **who}).encode()
    headers = {"content-type": "application/x-www-form-urlencoded"}
    status, _, body = http.send("POST", url, headers, form)
    return http.token_of(url, status, body)
