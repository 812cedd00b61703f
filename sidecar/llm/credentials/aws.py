"""AWS signatures, version 4, by botocore; its credentials come from where every AWS tool has them.

Source: AWS Signature Version 4 documentation; spec config section 3.12.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Final, final

import orjson
from botocore import UNSIGNED
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from sidecar.llm.credentials.base import (
    Cached,
    CredentialError,
    Fetched,
    Outgoing,
    Sharing,
    failed,
)
from sidecar.llm.credentials.shared import Share, SharedTokens
from sidecar.telemetry.clock import Clock

_FRESH_SECONDS: Final = 60.0
_VALID_SECONDS: Final = 540.0
"""botocore renews what expires at the latest 10 minutes before; asking it costs nothing else."""
_ROLE_SECONDS: Final = 3600.0

Fetch = Callable[[], Fetched[ReadOnlyCredentials]]


def fixed(access_key: str, secret_key: str, token: str | None) -> ReadOnlyCredentials:
    """Credentials that the configuration holds."""
    return ReadOnlyCredentials(access_key, secret_key, token)


def ambient_region() -> str:
    """The region that the environment or the profile names; "" for none."""
    try:
        return str(Session().get_config_variable("region") or "")
    except BotoCoreError:
        # A profile that is not there: the credentials will say so.
        return ""


def shared(tokens: SharedTokens, key: bytes) -> Sharing[ReadOnlyCredentials]:
    """How workers share temporary credentials."""
    return Share(tokens, key, _encoded, _decoded)


def _encoded(credentials: ReadOnlyCredentials) -> bytes:
    return orjson.dumps([credentials.access_key, credentials.secret_key, credentials.token])


def _decoded(octets: bytes) -> ReadOnlyCredentials:
    return fixed(*orjson.loads(octets))


def environment(profile: str | None = None) -> Fetch:
    """Credentials of the environment, shared files, containers or the machine: what botocore finds.

    It may block on files and the metadata service. The function raises: CredentialError.
    """
    session = Session(profile=profile)
    session.set_config_variable("metadata_service_timeout", 1)
    session.set_config_variable("metadata_service_num_attempts", 2)
    found: list[Credentials] = []

    def fetch() -> Fetched[ReadOnlyCredentials]:
        try:
            if not found:
                credentials = session.get_credentials()
                if credentials is None:
                    raise CredentialError("no AWS credentials in the environment")
                found.append(credentials)
            frozen = found[0].get_frozen_credentials()
        except BotoCoreError as exc:
            raise CredentialError(f"AWS credentials: {type(exc).__name__}") from exc
        return Fetched(frozen, _FRESH_SECONDS, _VALID_SECONDS)

    return fetch


def web_identity(region: str, environment: Mapping[str, str] = os.environ) -> Fetch | None:
    """Credentials of the role that the platform gives a workload (`AWS_ROLE_ARN` and
    `AWS_WEB_IDENTITY_TOKEN_FILE`); None where it gives none, or something goes before it.

    The function raises: CredentialError.
    """
    names = ("AWS_ROLE_ARN", "AWS_WEB_IDENTITY_TOKEN_FILE")
    role, path = (environment.get(name, "") for name in names)
    if not (role and path) or any(environment.get(name) for name in _BEFORE_WEB_IDENTITY):
        return None
    session = environment.get("AWS_ROLE_SESSION_NAME") or "agentgateway"

    def fetch() -> Fetched[ReadOnlyCredentials]:
        try:
            # Read each time: the platform renews it.
            token = Path(path).read_text(encoding="ascii").strip()
        except (OSError, ValueError) as exc:
            raise CredentialError(f"web identity token file: {type(exc).__name__}") from exc
        try:
            answer = _sts(region, None).assume_role_with_web_identity(
                RoleArn=role, RoleSessionName=session, WebIdentityToken=token
            )
        except (BotoCoreError, ClientError) as exc:
            raise CredentialError(f"AWS role: {_told(exc)}") from exc
        return _temporary(answer)

    return fetch


_BEFORE_WEB_IDENTITY: Final = ("AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_DEFAULT_PROFILE")


def assumed(
    base: Fetch, role_arn: str, session_name: str, tags: dict[str, str], region: str
) -> Fetch:
    """Credentials of a role, by AWS STS in `region`. The function raises: CredentialError."""

    def fetch() -> Fetched[ReadOnlyCredentials]:
        own = base().value
        try:
            answer = _sts(region, own).assume_role(
                RoleArn=role_arn,
                RoleSessionName=session_name,
                Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
            )
        except (BotoCoreError, ClientError) as exc:
            raise CredentialError(f"AWS role: {_told(exc)}") from exc
        return _temporary(answer)

    return fetch


_making: Final = threading.Lock()


@cache
def _session() -> Session:
    # The description of a service takes 0.2 s to load, once a session.
    return Session()


def _sts(region: str, own: ReadOnlyCredentials | None) -> Any:
    """A client of STS; `own`: who asks, None for a question that is not signed."""
    settings = Config(
        connect_timeout=2,
        read_timeout=3,
        retries={"max_attempts": 0},
        signature_version=UNSIGNED if own is None else None,
    )
    # Sessions of botocore are not for several threads; the clients that they make are.
    with _making:
        return _session().create_client(
            "sts",
            region_name=region,
            aws_access_key_id=None if own is None else own.access_key,
            aws_secret_access_key=None if own is None else own.secret_key,
            aws_session_token=None if own is None else own.token,
            config=settings,
        )


def _told(problem: BotoCoreError | ClientError) -> str:
    """The kind of problem: what STS says may quote a token."""
    if isinstance(problem, ClientError):
        return str(problem.response.get("Error", {}).get("Code", "refused"))
    return type(problem).__name__


def _temporary(answer: Any) -> Fetched[ReadOnlyCredentials]:
    got = answer["Credentials"]
    made = fixed(got["AccessKeyId"], got["SecretAccessKey"], got["SessionToken"])
    until = got.get("Expiration")
    seconds = _ROLE_SECONDS
    if isinstance(until, datetime):
        seconds = (until - datetime.now(UTC)).total_seconds()
    return Fetched.lasting(made, seconds)


def sign(request: Outgoing, credentials: ReadOnlyCredentials, service: str, region: str) -> None:
    """Sign head and body, in place. Host, content type and `x-amz-*` are covered; what a proxy on
    the way may touch is not."""
    headers = request.headers
    for name in (b"authorization", b"x-amz-date", b"x-amz-security-token"):
        headers.remove_all(name)
    covered = {
        name.decode(): value.decode("latin-1")
        for name, value in headers
        if name == b"content-type" or name.startswith(b"x-amz-")
    }
    covered["host"] = request.authority
    signed = AWSRequest(
        method=request.method,
        url=f"{request.scheme}://{request.authority}{request.target}",
        headers=covered,
        data=request.body,
    )
    SigV4Auth(credentials, service, region).add_auth(signed)
    for field in ("Authorization", "X-Amz-Date", "X-Amz-Security-Token"):
        made = signed.headers.get(field)
        if made is not None:
            headers.set(field.lower().encode(), made.encode("latin-1"))


@final
class AwsSignature:
    """`credentials`: fixed, or what fetches them."""

    explicit_place = True
    is_last = True

    def __init__(
        self,
        credentials: ReadOnlyCredentials | Fetch,
        service: str,
        region: str,
        clock: Clock,
        share: Sharing[ReadOnlyCredentials] | None = None,
    ) -> None:
        self._service = service
        self._region = region
        self._fixed: ReadOnlyCredentials | None = None
        self._cached: Cached[ReadOnlyCredentials] | None = None
        if isinstance(credentials, ReadOnlyCredentials):
            self._fixed = credentials
        else:
            self._cached = Cached("aws", credentials, clock, share)

    def apply_nowait(self, request: Outgoing) -> bool:
        """See Credential."""
        found = self._fixed if self._cached is None else self._cached.get_nowait()
        if found is None:
            return False
        sign(request, found, self._service, self._region)
        return True

    async def apply(self, request: Outgoing) -> None:
        """See Credential."""
        found = self._fixed if self._cached is None else await self._cached.get()
        if found is None:
            raise failed()
        sign(request, found, self._service, self._region)

    def close(self) -> None:
        """See Credential."""
        if self._cached is not None:
            self._cached.close()
