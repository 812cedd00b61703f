"""The command line: run a configuration, check it, print its schema, look at shared state.

Exit codes: 0 success, 1 the configuration was refused, 2 wrong usage. Data goes to standard
output, problems and warnings to standard error.

Source: spec config section 8.5; spec conventions sections 5.2 and 5.3.
"""

from __future__ import annotations

import argparse
import gc
import os
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from sidecar.config.problems import InvalidConfigError, Problem
from sidecar.version import package_version

if TYPE_CHECKING:
    from sidecar.config.local import Source

EXIT_OK = 0
EXIT_INVALID = 1
EXIT_USAGE = 2

DISTRIBUTION = "agentgateway-sidecar"
_ADMIN_ADDRESS = "localhost:15000"
_KEY = re.compile(r"[0-9a-f]{32}")
_INLINE = re.compile(r"\s*(?:[{#]|---|[\w$.-]+\s*:(?:\s|$))|.*\n", re.DOTALL)


def main(argv: Sequence[str]) -> int:
    """Run one command; returns the exit code."""
    parser = _parser()
    try:
        if argv[:1] == ["demo"]:
            # It has options of its own, and argparse passes none on that come first.
            from sidecar import demo

            return demo.main(argv[1:])
        options = parser.parse_args(argv)
        if options.short_version:
            print(package_version())
            return EXIT_OK
        if options.build_info:
            _print_json(build_info())
            return EXIT_OK
        return _run(parser, options)
    except BrokenPipeError:
        # Who reads us has seen enough, as `schema | head` does; the interpreter must not
        # fail again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_INVALID
    except SystemExit as exit_:
        # argparse leaves by raising: 0 after help, 2 after an error it has printed.
        return exit_.code if isinstance(exit_.code, int) else EXIT_USAGE


def build_info() -> dict[str, str]:
    """What `--version` prints."""
    return {
        "name": DISTRIBUTION,
        "version": package_version(),
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "platform": f"{platform.system()}-{platform.machine()}".lower(),
    }


def _parser() -> argparse.ArgumentParser:
    # No abbreviations: `--val` must not become a promise that a later option breaks.
    parser = argparse.ArgumentParser(
        prog=DISTRIBUTION,
        description="A data plane for agent traffic that reads agentgateway's configuration.",
        allow_abbrev=False,
    )
    parser.add_argument("-f", "--file", metavar="PATH", help="configuration file; - is stdin")
    parser.add_argument(
        "-c",
        "--config",
        metavar="CONFIG",
        help="a configuration as YAML or JSON text, the path of one, or - for stdin",
    )
    parser.add_argument(
        "--validate-only", action="store_true", help="check the configuration and exit"
    )
    parser.add_argument(
        "--output", choices=("text", "json"), default="text", help="form of what is printed"
    )
    parser.add_argument("-V", dest="short_version", action="store_true", help="print the version")
    parser.add_argument(
        "--version", dest="build_info", action="store_true", help="print build information as JSON"
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    commands.add_parser("schema", help="print the JSON schema of the configuration")
    _add_state(commands)
    _add_cel(commands)
    commands.add_parser("demo", help="run an echo server to try a gateway on", add_help=False)
    return parser


def _add_state(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    state = commands.add_parser(
        "state",
        help="show the shared tables of a running gateway, or reset a key",
        description="Asks the admin API: at --admin, else where the configuration has it, else at"
        f" {_ADMIN_ADDRESS}.",
        allow_abbrev=False,
    )
    names = ("tables", "rates", "budgets", "sessions", "endpoints", "leases")
    state.add_argument("table", nargs="?", choices=names, default="tables", metavar="TABLE")
    state.add_argument("--admin", metavar="URL", help="http://host:port, host:port or unix:/path")
    for short, long in (("-f", "--file"), ("-c", "--config")):
        # What stands before the command holds too, so there is no default here.
        state.add_argument(short, long, metavar="CONFIG", default=argparse.SUPPRESS)
    state.add_argument("--json", action="store_true", help="print what the admin API says")
    state.add_argument("--limit", type=int, default=100, metavar="N", help="rows, 1 to 10000")
    state.add_argument("--prefix", default="", metavar="TEXT", help="of the label or the key")
    state.add_argument("--reset", metavar="KEY", help="forget what is held against a key")


def _add_cel(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    cel = commands.add_parser(
        "cel",
        help="evaluate a CEL expression on sample data, and explain the result",
        description="Custom functions are those of the configuration given by --file or --config.",
        allow_abbrev=False,
    )
    cel.add_argument("expression", metavar="EXPR", help="as in a rule; - for stdin")
    cel.add_argument(
        "--request",
        metavar="FILE",
        help="sample data as JSON or YAML: a map of variables (request, jwt, ...), or of the"
        " fields of `request` alone; - for stdin. Default: some chat",
    )
    for short, long in (("-f", "--file"), ("-c", "--config")):
        cel.add_argument(short, long, metavar="CONFIG", default=argparse.SUPPRESS)
    cel.add_argument("--json", action="store_true", help="print what /api/cel answers")


def _cel(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from sidecar.gateway import cel_command

    if options.file is not None and options.config is not None:
        parser.error("only one of --config or --file")
    if options.expression == options.request == "-":
        parser.error("stdin can be either the expression or the sample")
    source = None if options.file is None and options.config is None else _source(options)
    as_json = options.json or options.output == "json"
    try:
        return cel_command.command(options.expression, options.request, source, as_json=as_json)
    except InvalidConfigError as error:
        for problem in error.problems:
            print(problem.render(error.file), file=sys.stderr)
        return EXIT_INVALID


def _state(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from sidecar.admin import show

    if not 1 <= options.limit <= 10_000:
        parser.error("--limit: expected a number from 1 to 10000")
    if options.reset is not None and options.table == "tables":
        parser.error("--reset: which table?")
    if options.reset is not None and not _KEY.fullmatch(options.reset):
        parser.error("--reset: expected 32 hexadecimal digits, as the rows show the key")
    if options.file is not None and options.config is not None:
        parser.error("only one of --config or --file")
    try:
        address = options.admin or _admin_address(options)
    except InvalidConfigError as error:
        for problem in error.problems:
            print(problem.render(error.file), file=sys.stderr)
        return EXIT_INVALID
    if address == "off":
        print("error: config.adminAddr is off: there is nobody to ask", file=sys.stderr)
        return EXIT_INVALID
    try:
        target = show.Target.parse(address)
    except show.StateError as error:
        parser.error(f"--admin: {error}")
    as_json = options.json or options.output == "json"
    try:
        if options.reset is not None:
            show.reset(target, options.table, options.reset, as_json=as_json)
        else:
            show.show(
                target, options.table, limit=options.limit, prefix=options.prefix, as_json=as_json
            )
    except show.StateError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_INVALID
    return EXIT_OK


def _admin_address(options: argparse.Namespace) -> str:
    """`config.adminAddr` as a start would have it. Raises InvalidConfigError."""
    if options.file is None and options.config is None:
        return os.environ.get("ADMIN_ADDR") or _ADMIN_ADDRESS
    from sidecar.gateway.loading import Loader

    source = _source(options)
    config = Loader(source).load().snapshot.resources["static/config"].data["config"]
    assert isinstance(config, dict)
    return str(config.get("adminAddr") or "off")


def _run(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.command == "schema":
        from sidecar.config.schema import json_schema

        _print_json(json_schema())
        return EXIT_OK
    if options.command == "state":
        return _state(parser, options)
    if options.command == "cel":
        return _cel(parser, options)
    if options.command == "demo":
        parser.error("demo takes no options of the gateway; see demo --help")
    return _gateway(parser, options)


def _gateway(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    if options.file is not None and options.config is not None:
        parser.error("only one of --config or --file")
    if options.file is None and options.config is None:
        # The reference would write a configuration with a database and a UI to the user's
        # directory and run it. A gateway that nobody configured should not listen anywhere.
        parser.error("no configuration; start with -f FILE, or with -c and YAML text")
    # Classes and modules are no garbage: looking for it while they are made is a tenth of the
    # start.
    # The supervisor turns it on again before it forks.
    gc.disable()
    source = _source(options)
    if options.validate_only:
        return _validate(source, options.output)
    from istio.mesh import Istio
    from sidecar.gateway import run

    return run.run(source, options.output, Istio())


def _source(options: argparse.Namespace) -> Source:
    # Loading builds the whole schema, which `-V` and wrong usage need not wait for.
    from sidecar.config.local import Source

    text: str = options.config if options.file is None else options.file
    if text == "-":
        # What is no UTF-8 becomes characters that the parser refuses, with the reason.
        content = sys.stdin.buffer.read().decode("utf-8-sig", "surrogateescape")
        return Source("<stdin>", content=content)
    if options.file is None and _INLINE.match(text) and not os.path.isfile(text):
        return Source("<config>", content=text)
    return Source(text, Path(text))


def _validate(source: Source, output: str) -> int:
    try:
        problems: Sequence[Problem] = ()
        warnings = _check(source)
    except InvalidConfigError as error:
        problems, warnings = error.problems, error.warnings
    if output == "json":
        _print_json(_report(source.name, problems, warnings))
    else:
        for problem in problems:
            print(problem.render(source.name), file=sys.stderr)
        for warning in warnings:
            print(f"warning: {warning.render(source.name)}", file=sys.stderr)
        if not problems:
            print("Configuration is valid!")
    return EXIT_INVALID if problems else EXIT_OK


def _check(source: Source) -> Sequence[Problem]:
    """Every check that a start makes; returns warnings. Raises InvalidConfigError."""
    from sidecar.gateway.loading import Loader

    return Loader(source).load().warnings


def _report(name: str, problems: Sequence[Problem], warnings: Sequence[Problem]) -> object:
    return {
        "valid": not problems,
        "problems": [problem.to_json(name) for problem in problems],
        "warnings": [warning.to_json(name) for warning in warnings],
    }


def _print_json(data: object) -> None:
    print(orjson.dumps(data, option=orjson.OPT_INDENT_2).decode(), flush=True)
