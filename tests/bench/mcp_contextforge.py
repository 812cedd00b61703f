"""ContextForge from PyPI, in an environment of its own that is made when it is first needed.

`requirements-contextforge.lock` says what is installed. It sees no variable of ours but those
below, and loopback alone. What it offers and we do not measure is off: admin pages, compression,
its own rate limits, metrics in its database. It keeps its defaults where these are the fast ones:
sessions without state, JSON answers, its caches.

Source: the package's `mcpgateway.config`, and its README, "Configuration".
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import http.client
import secrets
import subprocess
import time
from pathlib import Path
from typing import Any, Final

import orjson

from tests.bench import environments
from tests.bench.environments import AbsentError
from tests.bench.peers import wait_open
from tests.support.gateway import ROOT

LOCK: Final = ROOT / "requirements-contextforge.lock"
HOME: Final = ROOT / ".venv-contextforge"
NAME: Final = "mcp-contextforge-gateway"
PATH: Final = "/mcp"
_EMAIL: Final = "admin@example.com"
_SERVER: Final = "bench"
_START_SECONDS: Final = 180.0
_DAY_SECONDS: Final = 86_400
_SECRET: Final = secrets.token_urlsafe(48)
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "AUTH_REQUIRED": "true",
    "CACHE_TYPE": "memory",
    "MCPGATEWAY_UI_ENABLED": "false",
    "MCPGATEWAY_ADMIN_API_ENABLED": "false",
    "SSRF_ALLOW_LOCALHOST": "true",
    "SSRF_ALLOW_PRIVATE_NETWORKS": "true",
    "LOG_LEVEL": "ERROR",
    "STRUCTURED_LOGGING_ENABLED": "false",
    "OBSERVABILITY_ENABLED": "false",
    "PLUGINS_ENABLED": "false",
    "COMPRESSION_ENABLED": "false",
    "CSRF_ENABLED": "false",
    "DB_METRICS_RECORDING_ENABLED": "false",
    "RATE_LIMITING_ENABLED": "false",
    "TOOL_RATE_LIMIT": "1000000",
    "TOOL_CONCURRENT_LIMIT": "1000",
    "PLATFORM_ADMIN_EMAIL": _EMAIL,
    "PLATFORM_ADMIN_PASSWORD": secrets.token_urlsafe(24) + "-A1",
    "BASIC_AUTH_PASSWORD": secrets.token_urlsafe(24) + "-A1",
    "JWT_SECRET_KEY": _SECRET,
    "AUTH_ENCRYPTION_SECRET": secrets.token_urlsafe(48),
}


def version() -> str:
    """What the lock file pins."""
    return environments.version(LOCK, NAME)


def program() -> Path:
    """The `mcpgateway` command, installed if it is not. Raises: AbsentError."""
    return environments.installed(LOCK, HOME, NAME, 400) / "mcpgateway"


def start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """One process on that port, its database in the folder. Raises: AbsentError."""
    command = [str(program()), "--host", "127.0.0.1", "--port", str(port)]
    database = f"sqlite:///{folder / 'contextforge.db'}"
    environment = {**_ENVIRONMENT, "HOME": str(folder), "DATABASE_URL": database}
    with _log(folder).open("wb") as log:
        return subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)


def register(process: subprocess.Popen[bytes], port: int, upstream: str) -> tuple[str, str]:
    """Tell it of a server: the path of its endpoint, and what stands before names of tools.

    Raises: OSError when it does not start; AbsentError when it refuses.
    """
    wait_open(process, f"http://127.0.0.1:{port}/health", _START_SECONDS)
    made = {"name": _SERVER, "url": upstream, "transport": "STREAMABLEHTTP", "visibility": "public"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        given = {"content-type": "application/json", **dict(headers())}
        connection.request("POST", "/gateways", orjson.dumps(made), given)
        answer = connection.getresponse()
        said = answer.read()
    finally:
        connection.close()
    if answer.status not in (200, 201):
        raise AbsentError(f"refused the server: {answer.status} {said[:200].decode()}")
    return PATH, f"{_SERVER}-"


def headers() -> tuple[tuple[str, str], ...]:
    """Of each request: a token of its administrator, who may use every tool."""
    now = int(time.time())
    user = {"email": _EMAIL, "full_name": "bench", "is_admin": True, "auth_provider": "cli"}
    claims: dict[str, Any] = {"sub": _EMAIL, "username": _EMAIL, "user": user, "teams": None}
    claims |= {"iss": "mcpgateway", "aud": "mcpgateway-api", "env": "development"}
    claims |= {"iat": now, "exp": now + _DAY_SECONDS, "jti": secrets.token_hex(16)}
    signed = b".".join(_encoded(orjson.dumps(one)) for one in ({"alg": "HS256"}, claims))
    proof = hmac.digest(_SECRET.encode(), signed, hashlib.sha256)
    return (("authorization", f"Bearer {(signed + b'.' + _encoded(proof)).decode()}"),)


def _encoded(raw: bytes) -> bytes:
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def _log(folder: Path) -> Path:
    return folder / "contextforge.log"


def log_tail(folder: Path) -> str:
    """The last line that it has printed."""
    path = _log(folder)
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1][:300] if lines else "it printed nothing"
