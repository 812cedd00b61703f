"""Every configuration of the reference is honoured, or refused only for what is not built yet."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sidecar.config.local import Source, load
from sidecar.config.normalise import normalise
from sidecar.config.problems import InvalidConfigError
from sidecar.errors import ConfigError
from sidecar.gateway.check import Checker
from tests.support.certificates import make_pair
from tests.support.fixtures import CONFIGS, EveryVariable, needs_fixtures
from tests.support.issuer import jwk, jwks

PAIR = make_pair("a.test")
NAMED_FILE = re.compile(r"^\s*file: (\./\S+)$", re.MULTILINE)
"""What a load reads at once, from the folder the process runs in."""


def read_file(path: str) -> bytes:
    """Stands for files the configurations name and the reference does not keep with them."""
    return (PAIR.key if "key" in path else PAIR.cert).encode()


def write_named_files(text: str, folder: Path) -> None:
    """Keys and key sets that the reference has in its tree and not with its configurations."""
    for name in NAMED_FILE.findall(text):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(PAIR.key if file.suffix == ".pem" else jwks(jwk("rsa")))


def problems_of(file: Path) -> list[str]:
    """What the stages of a load find, up to the first that finds something."""
    try:
        # `x` replaces variables in the text alone: no ADMIN_ADDR is meant to be `x`.
        loaded = load(Source(file.name, file), EveryVariable())
    except InvalidConfigError as error:
        return [problem.message for problem in error.problems]
    found: list[ConfigError] = []
    snapshot = normalise(loaded.data, found, read_file=read_file, env={})
    return [problem.message for problem in found or Checker().check(snapshot)]


@needs_fixtures
@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_reference_configuration(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_named_files(file.read_text(), tmp_path)
    monkeypatch.chdir(tmp_path)
    found = problems_of(file)
    assert [message for message in found if "not supported yet" not in message] == []
