from __future__ import annotations

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.http.headers import Headers
from sidecar.telemetry.w3c import (
    TraceContext,
    context_of,
    inject,
    parse_traceparent,
    parse_tracestate,
    traceparent,
)

TRACE = 0x0AF7651916CD43DD8448EB211C80319C
SPAN = 0xB7AD6B7169203331
GOOD = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("value", "parsed"),
    [
        pytest.param(GOOD, (TRACE, SPAN, True), id="sampled"),
        pytest.param(GOOD[:-2] + b"00", (TRACE, SPAN, False), id="unsampled"),
        pytest.param(GOOD[:-2] + b"03", (TRACE, SPAN, True), id="other-flags"),
        pytest.param(b" " + GOOD + b"\t", (TRACE, SPAN, True), id="optional-space"),
        pytest.param(b"cc" + GOOD[2:], (TRACE, SPAN, True), id="later-version"),
        pytest.param(b"cc" + GOOD[2:] + b"-more", (TRACE, SPAN, True), id="later-version-longer"),
        pytest.param(b"cc" + GOOD[2:] + b"more", None, id="later-version-no-dash"),
        pytest.param(GOOD + b"-more", None, id="version-00-longer"),
        pytest.param(b"ff" + GOOD[2:], None, id="version-ff"),
        pytest.param(GOOD.upper(), None, id="upper-case"),
        pytest.param(b"00-" + b"0" * 32 + GOOD[35:], None, id="zero-trace"),
        pytest.param(GOOD[:36] + b"0" * 16 + b"-01", None, id="zero-span"),
        pytest.param(GOOD[:-1], None, id="short"),
        pytest.param(GOOD.replace(b"-", b"_"), None, id="separator"),
        pytest.param(GOOD[:-2] + b"0g", None, id="flags"),
        pytest.param(b"", None, id="empty"),
    ],
)
def test_traceparent(value, parsed):
    assert parse_traceparent(value) == parsed


@pytest.mark.parametrize(
    ("values", "joined"),
    [
        pytest.param([b"a=1"], b"a=1", id="one"),
        pytest.param([b"a=1 , b=2", b"c=3"], b"a=1,b=2,c=3", id="joined"),
        pytest.param([b"a=1,,b=2"], b"a=1,b=2", id="empty-member"),
        pytest.param([b"1t@v=x"], b"1t@v=x", id="tenant"),
        pytest.param([b"A=1"], b"", id="upper-case-key"),
        pytest.param([b"a=1,a=2"], b"", id="twice"),
        pytest.param([b"a"], b"", id="no-value"),
        pytest.param([b"a=b=c"], b"", id="equals-in-value"),
        pytest.param([b",".join(b"k%d=v" % n for n in range(33))], b"", id="too-many"),
        pytest.param([b"k=" + b"v" * 257], b"", id="value-too-long"),
        pytest.param([], b"", id="none"),
    ],
)
def test_tracestate(values, joined):
    assert parse_tracestate(values) == joined


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_what_is_written_is_read(trace_id, span_id, sampled):
    assert parse_traceparent(traceparent(trace_id, span_id, sampled)) == (
        trace_id,
        span_id,
        sampled,
    )


@given(st.binary(max_size=80))
def test_any_bytes_are_parsed_or_refused(value):
    parse_traceparent(value)
    parse_tracestate([value])


def test_a_context_is_continued():
    headers = Headers([(b"traceparent", GOOD), (b"tracestate", b"a=1"), (b"tracestate", b"b=2")])
    context = context_of(headers)
    assert (context.trace_id, context.parent_id, context.state) == (TRACE, SPAN, b"a=1,b=2")
    assert context.span_id not in (0, SPAN)
    assert context.trace_id_hex == "0af7651916cd43dd8448eb211c80319c"
    assert len(context.span_id_hex) == 16
    assert len(headers) == 3


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [(b"traceparent", b"rubbish"), (b"tracestate", b"a=1")],
        [(b"traceparent", GOOD), (b"traceparent", GOOD)],
        [(b"traceparent", b""), (b"traceparent", GOOD)],
        [(b"tracestate", b"a=1")],
    ],
    ids=["none", "malformed", "two", "empty-and-one", "state-alone"],
)
def test_without_a_valid_context_a_trace_begins(fields):
    context = context_of(Headers(fields))
    assert context.parent_id == 0
    assert context.state == b""
    assert context.trace_id not in (0, TRACE)


def test_hardening_60_a_forked_child_draws_other_ids():
    script = """
import os
from sidecar.telemetry.w3c import root_context
root_context()
reader, writer = os.pipe()
for _ in range(2):
    if os.fork() == 0:
        os.write(writer, root_context().trace_id_hex.encode())
        os._exit(0)
    os.wait()
ids = os.read(reader, 64) + root_context().trace_id_hex.encode()
assert len({ids[:32], ids[32:64], ids[64:]}) == 3, ids
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=30)


def test_inject_replaces_what_was_there():
    headers = Headers([(b"traceparent", b"x"), (b"tracestate", b"y"), (b"traceparent", b"z")])
    inject(headers, TraceContext(TRACE, 1, SPAN, True), SPAN)
    assert headers == [(b"traceparent", GOOD)]
    inject(headers, TraceContext(TRACE, 1, SPAN, True, b"a=1"), SPAN)
    assert headers == [(b"traceparent", GOOD), (b"tracestate", b"a=1")]
