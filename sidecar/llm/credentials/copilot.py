"""GitHub Copilot's token, from where its editors and command-line tools keep it.

Source: spec llm section 1.2; spec config section 3.12.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import orjson
import yaml

from sidecar.llm.credentials.base import CredentialError, Fetched

_VARIABLES: Final = ("GH_COPILOT_TOKEN", "COPILOT_GITHUB_TOKEN")
_FRESH_SECONDS: Final = 60.0
_VALID_SECONDS: Final = 600.0
_LIMIT_BYTES: Final = 1024 * 1024


def discover(environment: Mapping[str, str] = os.environ) -> Callable[[], Fetched[str]]:
    """Finds the token: two variables, then three files below the user's configuration folder."""

    def fetch() -> Fetched[str]:
        for token in _candidates(environment):
            if token and token.isascii() and token.isprintable():
                return Fetched(token, _FRESH_SECONDS, _VALID_SECONDS)
        raise CredentialError("no Copilot token in the environment or the user's configuration")

    return fetch


def _candidates(environment: Mapping[str, str]) -> Iterator[str]:
    for name in _VARIABLES:
        yield environment.get(name, "").strip()
    home = environment.get("XDG_CONFIG_HOME")
    folder = Path(home) if home else Path(environment.get("HOME", "/")) / ".config"
    for name in ("hosts.json", "apps.json"):
        yield _token_in(_json(folder / "github-copilot" / name))
    yield _token_in(_yaml(folder / "gh" / "hosts.yml"))


def _token_in(document: object) -> str:
    """The `oauth_token` of the entry of github.com."""
    if not isinstance(document, dict):
        return ""
    for key, entry in document.items():
        is_github = isinstance(key, str) and (key == "github.com" or key.startswith("github.com:"))
        if is_github and isinstance(entry, dict) and isinstance(entry.get("oauth_token"), str):
            return str(entry["oauth_token"]).strip()
    return ""


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LIMIT_BYTES)
    except OSError:
        # Not there, or not ours to read: the next place may have it.
        return b""


def _json(path: Path) -> object:
    try:
        return orjson.loads(_read(path) or b"null")
    except orjson.JSONDecodeError:
        return None


def _yaml(path: Path) -> object:
    try:
        return yaml.safe_load(_read(path))
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
