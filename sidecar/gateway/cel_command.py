"""The command `cel`: evaluates an expression on sample data as the admin API does.

Source: spec/config.md section 8.4, `/api/cel`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Final

import orjson

from sidecar.admin.cel import evaluated
from sidecar.cel.analysis import ROOTS
from sidecar.cel.engine import Engine
from sidecar.cel.explain import Explanation
from sidecar.cel.variables import REQUEST_FIELDS
from sidecar.config.problems import InvalidConfigError, Problem
from sidecar.config.text import Source
from sidecar.config.yaml import Document, YamlError
from sidecar.gateway.expressions import expression_engine
from sidecar.gateway.loading import Loader

_WIDTH: Final = 40


def command(expression: str, sample: str | None, source: Source | None, *, as_json: bool) -> int:
    """Print the result; the exit code: 0 when there is one, else 1.

    `sample`: the name of a file, `-` for stdin, None for the default. `source`: the configuration
    whose custom functions and sensitive headers hold. Raises: InvalidConfigError.
    """
    text = sys.stdin.read() if expression == "-" else expression
    found = evaluated(text, None if sample is None else _read(sample), _engine(source))
    if as_json:
        print(orjson.dumps(found.to_json(), option=orjson.OPT_INDENT_2).decode())
    else:
        _print(found)
    return 1 if found.error else 0


def _engine(source: Source | None) -> Engine:
    config: Any = {}
    if source is not None:
        config = Loader(source).load().snapshot.resources["static/config"].data["config"]
    return expression_engine(config)


def _read(name: str) -> Any:
    """Sample data of a file; the fields of a request alone stand for `request`."""
    source = Source(name, None if name == "-" else Path(name), content=None)
    text = sys.stdin.read() if name == "-" else source.read()
    try:
        data = Document(text).data
    except YamlError as error:
        raise InvalidConfigError(
            name,
            [
                Problem("", fault.message, fault.place.line + 1, fault.place.column + 1)
                if fault.place
                else Problem("", fault.message)
                for fault in error.faults
            ],
        ) from error
    if isinstance(data, dict) and data and data.keys() <= REQUEST_FIELDS - ROOTS:
        return {"request": data}
    return data


def _print(found: Explanation) -> None:
    if found.error:
        print(f"error: {found.error}", file=sys.stderr)
    else:
        print(_shown(found.result))
    for step in found.steps:
        outcome = f"error: {step.error}" if step.error else _shown(step.value)
        print(f"  {step.expression.ljust(_WIDTH)}  {outcome}")
    if found.absent:
        print(f"  not in the sample: {', '.join(found.absent)}")
    if found.reads:
        print(f"  makes the gateway hold back: {', '.join(found.reads)}")


def _shown(value: Any) -> str:
    # JSON: a terminal must not obey what a sample holds.
    return orjson.dumps(value).decode()
