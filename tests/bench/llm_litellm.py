"""LiteLLM's proxy from PyPI, in an environment of its own that is made when it is first needed.

`requirements-litellm.lock` says what is installed. It sees no variable of ours but those below, and
loopback alone.

Source: docs.litellm.ai, "Config.yaml" and "Best Practices for Production".
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any, Final

import yaml

from tests.bench import environments
from tests.support.gateway import ROOT

LOCK: Final = ROOT / "requirements-litellm.lock"
HOME: Final = ROOT / ".venv-litellm"
_ENVIRONMENT: Final = {
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "NO_COLOR": "1",
    "LITELLM_MODE": "PRODUCTION",
    "LITELLM_LOG": "ERROR",
    # Else it asks for prices over the network at its start.
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
}
_ENOUGH: Final = 10**9


def version() -> str:
    """What the lock file pins."""
    return environments.version(LOCK, "litellm")


def program() -> Path:
    """The `litellm` command, installed if it is not. Raises: AbsentError."""
    return environments.installed(LOCK, HOME, "litellm", 750) / "litellm"


def start(folder: Path, port: int, key: str, bases: dict[str, str]) -> subprocess.Popen[bytes]:
    """One worker process on that port. `bases`: a provider's and model's name → its base URL.

    Raises: AbsentError.
    """
    path = folder / "litellm.yaml"
    path.write_text(yaml.safe_dump(_config(key, bases)))
    command = [str(program()), "--config", str(path), "--host", "127.0.0.1", "--port", str(port)]
    command += ["--num_workers", "1", "--telemetry", "False"]
    environment = {**_ENVIRONMENT, "HOME": str(folder)}
    with (folder / "litellm.log").open("wb") as log:
        return subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)


def _config(key: str, bases: dict[str, str]) -> dict[str, Any]:
    """Its own key and limits, as far as it has them without a database: a key of the proxy, and
    requests and tokens a minute for each model."""
    models = [
        {
            "model_name": name.partition("/")[2],
            "litellm_params": {
                "model": name,
                "api_base": base,
                "api_key": "sk-upstream",
                "rpm": _ENOUGH,
                "tpm": _ENOUGH * 1000,
            },
        }
        for name, base in bases.items()
    ]
    return {
        "model_list": models,
        "router_settings": {
            "optional_pre_call_checks": ["enforce_model_rate_limits"],
            "num_retries": 0,
        },
        "litellm_settings": {"telemetry": False, "set_verbose": False},
        "general_settings": {"master_key": key},
    }


def log_tail(folder: Path) -> str:
    """The last line that it has printed."""
    path = folder / "litellm.log"
    lines = path.read_text(errors="replace").strip().splitlines() if path.exists() else []
    return lines[-1] if lines else "it printed nothing"
