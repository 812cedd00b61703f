"""AWS signatures, version 4, by botocore; its credentials come from where every AWS tool has them.

Source: AWS Signature Version 4 documentation; spec config section 3.12.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, final

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials, ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError
from botocore.session import Session

from sidecar.llm.credentials.base import Cached, CredentialError, Fetched, Outgoing, failed
from sidecar.telemetry.clock import Clock

_FRESH_SECONDS: Final = 60.0
_VALID_SECONDS: Final = 540.0
"""botocore renews what expires at the latest 10 minutes before; asking it costs nothing else."""
_ROLE_SECONDS: Final = 3600.0

Fetch = Callable[[], Fetched[ReadOnlyCredentials]]


def fixed(access_key: str, secret_key: str, token: str | None) -> ReadOnlyCredentials:
    """Credentials that the configuration holds."""
    return ReadOnlyCredentials(access_key, secret_key, token)


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


def assumed(
    base: Fetch, role_arn: str, session_name: str, tags: dict[str, str], region: str
) -> Fetch:
    """Credentials of a role, by AWS STS in `region`. The function raises: CredentialError."""
    session = Session()
    settings = Config(connect_timeout=2, read_timeout=3, retries={"max_attempts": 0})

    def fetch() -> Fetched[ReadOnlyCredentials]:
        own = base().value
        try:
            client: Any = session.create_client(
                "sts",
                region_name=region,
                aws_access_key_id=own.access_key,
                aws_secret_access_key=own.secret_key,
                aws_session_token=own.token,
                config=settings,
            )
            answer = client.assume_role(
                RoleArn=role_arn,
                RoleSessionName=session_name,
                Tags=[{"Key": key, "Value": value} for key, value in tags.items()],
            )
        except (BotoCoreError, ClientError) as exc:
            raise CredentialError(f"AWS role: {type(exc).__name__}") from exc
        got = answer["Credentials"]
        made = fixed(got["AccessKeyId"], got["SecretAccessKey"], got["SessionToken"])
        return Fetched.lasting(made, _ROLE_SECONDS)

    return fetch


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
    ) -> None:
        self._service = service
        self._region = region
        self._fixed: ReadOnlyCredentials | None = None
        self._cached: Cached[ReadOnlyCredentials] | None = None
        if isinstance(credentials, ReadOnlyCredentials):
            self._fixed = credentials
        else:
            self._cached = Cached("aws", credentials, clock)

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
