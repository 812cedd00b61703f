"""The command line, in process."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from sidecar.cli import main
from sidecar.version import package_version

GOOD = "gateways: {default: {port: 3000}}"
BAD = "gateways:\n  default: {prt: 3000}\n"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-V"]) == 0
    assert capsys.readouterr().out.strip() == package_version()
    assert main(["--version"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == package_version()


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        ([], "no configuration; start with -f FILE"),
        (["-f", "x", "-c", "y"], "only one of --config or --file"),
        (["--nope"], "unrecognized arguments"),
        (["--validate"], "unrecognized arguments"),
        (["--output", "xml"], "invalid choice"),
    ],
)
def test_usage(argv: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(argv) == 2
    assert said in capsys.readouterr().err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "--validate-only" in capsys.readouterr().out


@pytest.mark.parametrize("flag", ["-c", "--config"])
def test_inline(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag, GOOD, "--validate-only"]) == 0
    assert capsys.readouterr() == ("Configuration is valid!\n", "")


def test_inline_json() -> None:
    assert main(["-c", '{"gateways": {"default": {"port": 3000}}}', "--validate-only"]) == 0


@pytest.mark.parametrize("flag", ["-f", "-c"])
def test_file(flag: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(BAD)
    assert main([flag, str(file), "--validate-only"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        f"{file}:2:13: gateways.default.prt: unknown field `prt`; did you mean 'port'?\n"
    )


@pytest.mark.parametrize("flag", ["-f", "-c"])
def test_stdin(
    flag: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(BAD.encode())))
    assert main([flag, "-", "--validate-only"]) == 1
    assert capsys.readouterr().err.startswith("<stdin>:2:13: ")


def test_stdin_must_be_utf8(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a: \xff")))
    assert main(["-f", "-", "--validate-only"]) == 1
    assert "not Unicode" in capsys.readouterr().err


def test_missing_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", "/nowhere/c.yaml", "--validate-only"]) == 1
    assert capsys.readouterr().err == "/nowhere/c.yaml: cannot be read: No such file or directory\n"


def test_json_report(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", BAD, "--validate-only", "--output", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["valid"] is False
    assert report["problems"][0]["line"] == 2
    assert main(["-c", GOOD, "--validate-only", "--output", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"valid": True, "problems": [], "warnings": []}


def test_warnings_do_not_refuse(capsys: pytest.CaptureFixture[str]) -> None:
    text = GOOD + "\nroutes: [{comment: x, backends: [{host: 'a:1'}]}]"
    assert main(["-c", text, "--validate-only"]) == 0
    assert "warning: <config>:2:11: routes[0].comment" in capsys.readouterr().err


def test_cross_field_problems_have_places(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-c", "gateways:\n  default: {}\n", "--validate-only"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("<config>:2:12: gateways.default")
    assert "gateways.default.port is required" in err


def test_expressions_are_compiled(capsys: pytest.CaptureFixture[str]) -> None:
    text = GOOD + "\nroutes: [{policies: {authorization: {rules: ['1 +']}}}]"
    assert main(["-c", text, "--validate-only"]) == 1
    assert "<config>:2:" in capsys.readouterr().err


def test_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert "gateways" in json.loads(capsys.readouterr().out)["properties"]


# --- cel ----------------------------------------------------------------------------------------


def test_cel_on_the_default_sample(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cel", 'request.method == "POST"']) == 0
    assert capsys.readouterr().out.splitlines() == [
        "true",
        f'  {"request.method".ljust(40)}  "POST"',
    ]


def test_cel_on_a_file_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sample = tmp_path / "sample.yaml"
    sample.write_text("jwt: {sub: u}\nrequest: {path: /a, headers: {X-Team: red}}\n")
    functions = 'config: {customFunctions: "team() { request.headers[\\"x-team\\"] }"}'
    argv = ["-c", functions, "cel", "team() + jwt.sub", "--request", str(sample), "--json"]
    assert main(argv) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["result"], said["error"]) == ("redu", None)


def test_cel_takes_the_fields_of_a_request_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("{method: GET, path: /b}"))
    assert main(["cel", "request.path", "--request", "-"]) == 0
    assert capsys.readouterr().out.startswith('"/b"\n')


def test_cel_shows_which_part_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cel", 'jwt.sub == "x" || apiKey.name == "y"']) == 1
    captured = capsys.readouterr()
    assert captured.err == "error: no such key: apiKey\n"
    assert "not in the sample: apiKey" in captured.out


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (["cel"], 2, "EXPR"),
        (["cel", "1", "--request", "/nowhere"], 1, "/nowhere: cannot be read"),
        (["-c", "config: {customFunctions: 'f('}", "cel", "1"], 1, "customFunctions"),
        (["cel", "-", "--request", "-"], 2, "stdin"),
        (["cel", "1 +"], 1, "CEL line 1, column 4"),
    ],
)
def test_cel_wrong_usage(
    argv: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == code
    assert said in capsys.readouterr().err


def test_cel_sample_that_is_no_yaml(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("a: [\n"))
    assert main(["cel", "1", "--request", "-"]) == 1
    assert "-:2:1: invalid YAML" in capsys.readouterr().err
