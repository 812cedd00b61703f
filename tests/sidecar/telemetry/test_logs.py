from __future__ import annotations

import json
import logging
import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.errors import ConfigError
from sidecar.telemetry.logs import (
    TRACE,
    Logs,
    Timestamps,
    escape,
    json_line,
    json_value,
    parse_levels,
    text_value,
)
from sidecar.telemetry.sink import LogSink

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


@pytest.fixture
def read_lines(tmp_path):
    path = tmp_path / "log"
    made: list[Logs] = []

    def begin(**options) -> Logs:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT)
        logs = Logs(LogSink(fd), **options)
        os.close(fd)
        made.append(logs)
        logs.install()
        return logs

    begin.lines = lambda: path.read_text().splitlines()
    yield begin
    for logs in made:
        logs.uninstall()
        logs.sink.close()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        pytest.param("plain", "plain", id="plain"),
        pytest.param("a\r\nb", "a\\r\\nb", id="hardening-40-crlf"),
        pytest.param("\x1b[31mred", "\\x1b[31mred", id="hardening-40-ansi"),
        pytest.param("\x9b31m", "\\x9b31m", id="hardening-40-c1"),
        pytest.param("a\u202eb", "a\\u202eb", id="hardening-40-bidi"),
        pytest.param("a\u2028b", "a\\u2028b", id="line-separator"),
        pytest.param("\ud800", "\\ud800", id="surrogate"),
        pytest.param("ü", "ü", id="letters-stay"),
    ],
)
def test_escape(text, shown):
    assert escape(text) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("/a/b", "/a/b"),
        ("", '""'),
        ("a b", '"a b"'),
        ("a=b", '"a=b"'),
        ('say "x"', '"say \\"x\\""'),
        ("back\\slash", '"back\\\\slash"'),
        ("x\ny", '"x\\ny"'),
        (5, "5"),
        (1.5, "1.5"),
        (True, "true"),
        ([1, "a"], '"[1,\\"a\\"]"'),
        ({"k": None}, '"{\\"k\\":null}"'),
        (b"raw", "raw"),
    ],
)
def test_text_value(value, shown):
    assert text_value(value) == shown


@given(st.text())
def test_a_value_never_breaks_its_line(text):
    for line in (text_value(text), json_value(text), json_line({"k": text}).decode()[:-1]):
        assert not CONTROL.search(line)
        line.encode()


@given(st.text(alphabet=st.characters(exclude_categories=("Cs", "Cc", "Cf", "Zl", "Zp"))))
def test_json_values_are_kept(text):
    assert json.loads(json_value(text)) == text


def test_timestamps():
    times = Timestamps()
    assert times.format(0) == "1970-01-01T00:00:00.000000Z"
    assert times.format(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123456Z"
    assert times.format(1_700_000_000_999_999_999) == "2023-11-14T22:13:20.999999Z"


@pytest.mark.parametrize(
    ("spec", "levels"),
    [
        ("info", {"": logging.INFO}),
        ("warn,sidecar.net=debug", {"": logging.WARNING, "sidecar.net": logging.DEBUG}),
        ("agentgateway::proxy=trace", {"sidecar.proxy": TRACE}),
        ("agentgateway=DEBUG", {"sidecar": logging.DEBUG}),
        (["info", " request = off "], {"": logging.INFO, "request": logging.CRITICAL + 10}),
        ("", {}),
    ],
)
def test_parse_levels(spec, levels):
    assert parse_levels(spec) == levels


@pytest.mark.parametrize("spec", ["inof", "a=b", "=info", "[span]=info", "x y=info", "a=\x1b"])
def test_wrong_levels_are_refused(spec):
    with pytest.raises(ConfigError) as caught:
        parse_levels(spec)
    assert caught.value.path == "config.logging.level"
    assert "\x1b" not in str(caught.value)


def test_a_text_line(read_lines):
    read_lines()
    logging.getLogger("sidecar.net").info(
        "listening on %s", ":80", extra={"fields": {"port": 80, "why": "a b"}}
    )
    when, level, target, message = read_lines.lines()[0].split("\t")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", when)
    assert (level, target, message) == ("info", "sidecar.net", 'listening on :80 port=80 why="a b"')


def test_a_json_line(read_lines):
    read_lines(fmt="json")
    logging.getLogger("sidecar.net").warning("x\x1b", extra={"fields": {"port": 80, "level": "no"}})
    line = json.loads(read_lines.lines()[0])
    assert line.pop("time")
    assert line == {"level": "warn", "scope": "sidecar.net", "message": "x\\x1b", "port": 80}


@pytest.mark.parametrize("fmt", ["text", "json"])
def test_an_exception_is_one_line(read_lines, fmt):
    read_lines(fmt=fmt)
    try:
        raise ValueError("first\nsecond")
    except ValueError:
        logging.getLogger("sidecar").exception("failed")
    (line,) = read_lines.lines()
    assert "Traceback" in line
    assert "second" in line


def test_a_record_that_cannot_be_formatted_is_told_and_survived(read_lines, monkeypatch):
    read_lines()
    root = logging.getLogger()
    ours = [h for h in root.handlers if type(h).__module__ == "sidecar.telemetry.logs"]
    monkeypatch.setattr(root, "handlers", ours)  # the test runner's own would raise
    logging.getLogger("sidecar").info("%d", "not a number")
    assert read_lines.lines()[0].endswith("a record of sidecar has no text: TypeError")


def test_levels_change_at_run_time(read_lines):
    logs = read_lines(level="warn,sidecar.a=info")
    a, b = logging.getLogger("sidecar.a"), logging.getLogger("sidecar.b")
    a.info("1")
    b.info("no")
    logs.set_levels("sidecar.b=debug")
    a.info("no")
    b.debug("2")
    assert logs.levels() == "warn,sidecar.b=debug"
    logs.reset_levels()
    a.info("3")
    b.info("no")
    assert logs.levels() == "warn,sidecar.a=info"
    assert [line.split("\t")[3] for line in read_lines.lines()] == ["1", "2", "3"]


def test_a_wrong_spec_changes_nothing(read_lines):
    logs = read_lines()
    with pytest.raises(ConfigError):
        logs.set_levels("sidecar=loud")
    assert logs.levels() == "info"


def test_installing_twice_writes_once(read_lines):
    logs = read_lines()
    logs.install()
    logging.getLogger("sidecar").info("once")
    assert len(read_lines.lines()) == 1


def test_libraries_that_tell_whole_urls_are_not_heard(read_lines):
    logs = read_lines(level="trace")
    logging.getLogger("httpx").info("GET https://host/?token=t0p")
    logging.getLogger("httpcore.http11").debug("authorization: t0p")
    logging.getLogger("httpx").warning("odd")
    assert logs.levels() == "trace"
    (line,) = read_lines.lines()
    assert line.endswith("httpx\todd")
