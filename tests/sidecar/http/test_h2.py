"""The HTTP/2 codec: bytes in, events out; fields against python-h2's own validation."""

from __future__ import annotations

import pytest
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived
from h2.exceptions import ProtocolError
from h2.utilities import HeaderValidationFlags, validate_headers
from hpack import Decoder, Encoder, NeverIndexedHeaderTuple
from hpack.exceptions import HPACKDecodingError
from hpack.huffman_table import decode_huffman as hpack_huffman
from hyperframe.frame import DataFrame, HeadersFrame, PingFrame, SettingsFrame
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from sidecar.errors import ConfigError, RequestError
from sidecar.http.h2 import H2Codec, H2Limits, block_of
from sidecar.http.h2_fields import (
    FieldRules,
    MessageError,
    RequestHead,
    outgoing,
    request_head,
    response_head,
    trailers,
)
from sidecar.http.h2_guard import PREFACE, GoAwayReceived, H2ConnectionError
from sidecar.http.h2_hpack import Block, BlockDecoder, decode_huffman, encode_fields
from sidecar.http.headers import Field


def check_authority(raw: str) -> str:
    if "@" in raw or "/" in raw:
        raise RequestError(400, "InvalidRequest", "bad authority")
    return raw.lower()


RULES = FieldRules(check_authority, 10)
GET: list[Field] = [
    (b":method", b"GET"),
    (b":scheme", b"http"),
    (b":authority", b"Example.com:80"),
    (b":path", b"/a?b"),
]


def block(fields: list[Field]) -> Block:
    made = Block()
    made.fields = list(fields)
    return made


def mapped(*extra: Field, base: list[Field] = GET, rules: FieldRules = RULES) -> RequestHead:
    return request_head(block([*base, *extra]), rules)


def replaced(name: bytes, value: bytes | None) -> list[Field]:
    return [(n, value if n == name else v) for n, v in GET if n != name or value is not None]


# --- fields -----------------------------------------------------------------------------------


def test_request_is_mapped() -> None:
    head = mapped(
        (b"accept", b"*/*"),
        (b"te", b"trailers"),
        (b"content-length", b"3"),
        (b"expect", b"100-continue"),
        (b"host", b"example.com:80"),
        (b"trailer", b"x"),
    )
    assert (head.method, head.authority, head.target) == ("GET", "example.com:80", "/a?b")
    assert head.headers == [(b"accept", b"*/*"), (b"content-length", b"3")]
    assert head.wants_trailers
    assert head.expects_continue
    assert head.length == 3


def test_cookie_crumbs_are_joined_and_counted_27() -> None:
    assert mapped((b"cookie", b"a=1"), (b"cookie", b"b=2")).headers == [(b"cookie", b"a=1; b=2")]
    with pytest.raises(RequestError) as raised:
        mapped(*[(b"cookie", b"a=1")] * 11)
    assert raised.value.status == 431


def test_host_stands_in_for_a_missing_authority() -> None:
    assert mapped((b"host", b"Example.com"), base=replaced(b":authority", None)).authority == (
        "example.com"
    )


def test_connect_takes_an_authority_alone() -> None:
    head = mapped(base=[(b":method", b"CONNECT"), (b":authority", b"db:5432")])
    assert (head.method, head.target, head.authority) == ("CONNECT", "db:5432", "db:5432")
    with pytest.raises(MessageError):
        mapped(base=replaced(b":method", b"CONNECT"))


def test_extended_connect_only_when_enabled() -> None:
    fields = [(b":method", b"CONNECT"), *GET[1:], (b":protocol", b"WebSocket")]
    with pytest.raises(MessageError):
        mapped(base=fields)
    head = mapped(base=fields, rules=FieldRules(check_authority, 10, True))
    assert (head.protocol, head.target) == ("websocket", "/a?b")


MALFORMED: dict[str, list[Field]] = {
    "18-cr-in-value": [*GET, (b"x", b"a\rb")],
    "18-lf-in-value": [*GET, (b"x", b"a\nb")],
    "18-nul-in-value": [*GET, (b"x", b"a\0b")],
    "18-control-in-value": [*GET, (b"x", b"a\x01b")],
    "18-leading-space": [*GET, (b"x", b" a")],
    "18-trailing-tab": [*GET, (b"x", b"a\t")],
    "18-space-in-name": [*GET, (b"x y", b"a")],
    "18-upper-case-name": [*GET, (b"X", b"a")],
    "18-colon-in-name": [*GET, (b"x:y", b"a")],
    "18-empty-name": [*GET, (b"", b"a")],
    "18-transfer-encoding": [*GET, (b"transfer-encoding", b"chunked")],
    "18-connection": [*GET, (b"connection", b"close")],
    "18-keep-alive": [*GET, (b"keep-alive", b"1")],
    "18-proxy-connection": [*GET, (b"proxy-connection", b"close")],
    "18-upgrade": [*GET, (b"upgrade", b"h2c")],
    "18-te-gzip": [*GET, (b"te", b"gzip")],
    "18-path-with-space": replaced(b":path", b"/a b"),
    "18-two-lengths": [*GET, (b"content-length", b"1"), (b"content-length", b"2")],
    "18-length-plus": [*GET, (b"content-length", b"+1")],
    "18-length-empty": [*GET, (b"content-length", b"")],
    "36-two-hosts": [*GET, (b"host", b"a"), (b"host", b"a")],
    "empty-path": replaced(b":path", b""),
    "relative-path": replaced(b":path", b"a"),
    "star-without-options": replaced(b":path", b"*"),
    "fragment-in-path": replaced(b":path", b"/a#b"),
    "no-path": replaced(b":path", None),
    "no-method": replaced(b":method", None),
    "no-scheme": replaced(b":scheme", None),
    "unknown-scheme": replaced(b":scheme", b"ftp"),
    "method-with-space": replaced(b":method", b"GE T"),
    "repeated-pseudo": [*GET, (b":path", b"/b")],
    "unknown-pseudo": [*GET, (b":version", b"2")],
    "status-in-request": [*GET, (b":status", b"200")],
    "pseudo-after-field": [*GET[:3], (b"x", b"y"), GET[3]],
    "empty-block": [],
}


@pytest.mark.parametrize("fields", MALFORMED.values(), ids=MALFORMED.keys())
def test_malformed_request_18(fields: list[Field]) -> None:
    with pytest.raises(MessageError):
        mapped(base=fields)


REFUSED: dict[str, tuple[int, list[Field]]] = {
    "36-host-differs": (400, [*GET, (b"host", b"other")]),
    "36-userinfo": (400, replaced(b":authority", b"a@b")),
    "no-authority": (400, replaced(b":authority", None)),
    "expect-other": (417, [*GET, (b"expect", b"teapot")]),
    "101-fields": (431, [*GET, *[(b"a", b"b")] * 11]),
}


@pytest.mark.parametrize(("status", "fields"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_request(status: int, fields: list[Field]) -> None:
    with pytest.raises(RequestError) as raised:
        mapped(base=fields)
    assert raised.value.status == status


octets = st.sampled_from(
    [b"", b"a", b"A", b" ", b"\t", b"\r", b"\n", b"\0", b":", b"\x7f", b"\xff"]
)
names = st.one_of(
    st.sampled_from(
        b":method :path :scheme :authority :status :protocol :x te host connection x".split()
    ),
    st.lists(octets, max_size=3).map(b"".join),
)
values = st.one_of(
    st.sampled_from([b"GET", b"CONNECT", b"/", b"http", b"a", b"trailers", b"200"]),
    st.lists(octets, max_size=3).map(b"".join),
)


@settings(max_examples=500, deadline=None)
@given(
    st.sampled_from([[], GET, GET[:3], [(b":method", b"CONNECT"), GET[2]]]),
    st.lists(st.tuples(names, values), max_size=3),
)
def test_whatever_python_h2_refuses_is_refused(base: list[Field], extra: list[Field]) -> None:
    fields = [*base, *extra]
    try:
        list(validate_headers(fields, HeaderValidationFlags(False, False, False, False)))
    except ProtocolError:
        with pytest.raises((MessageError, RequestError)):
            request_head(block(fields), FieldRules(str, 100, True))


@settings(max_examples=300, deadline=None)
@given(st.booleans(), st.lists(st.tuples(names, values), max_size=3))
def test_whatever_python_h2_refuses_of_a_response_is_refused(
    has_status: bool, extra: list[Field]
) -> None:
    fields = [(b":status", b"200")] * has_status + extra
    try:
        list(validate_headers(fields, HeaderValidationFlags(True, False, True, False)))
    except ProtocolError:
        # Responses have no `te`; python-h2 looks at it all the same.
        assume(not any(name == b"te" for name, _ in fields))
        with pytest.raises(MessageError):
            response_head(block(fields), 100)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(names, values), max_size=3))
def test_whatever_python_h2_refuses_of_trailers_is_refused_or_dropped(fields: list[Field]) -> None:
    try:
        kept = trailers(block(fields), 100)
    except MessageError:
        return
    list(validate_headers(kept, HeaderValidationFlags(False, True, False, False)))


def test_trailers_that_frame_or_authenticate_are_dropped_14() -> None:
    fields = [(b"grpc-status", b"0"), (b"content-length", b"1"), (b"authorization", b"x")]
    assert trailers(block(fields), 10) == [(b"grpc-status", b"0")]


@pytest.mark.parametrize("status", [b"", b"20", b"2000", b"abc", b"101", b"099", b"\xb2\xb2\xb2"])
def test_illegal_status(status: bytes) -> None:
    with pytest.raises(MessageError):
        response_head(block([(b":status", status)]), 10)


def test_outgoing_fields_are_checked() -> None:
    assert outgoing([(b"x", b" a "), (b"connection", b"x"), (b"host", b"y")]) == [(b"x", b"a")]
    for field in ((b"x", b"a\r\nb: c"), (b"X", b"a"), (b"", b"a"), (b":path", b"/")):
        with pytest.raises(MessageError):
            outgoing([field])


# --- HPACK ------------------------------------------------------------------------------------

field_lists = st.lists(
    st.tuples(
        st.sampled_from([b"x", b"accept", b":path", b"a" * 140, b"authorization"]),
        st.binary(max_size=300),
        st.booleans(),
    ),
    max_size=8,
)


@given(st.lists(field_lists, max_size=4))
def test_decoder_agrees_with_hpack(blocks: list[list[tuple[bytes, bytes, bool]]]) -> None:
    encoder, ours, theirs = Encoder(), BlockDecoder(1 << 20), Decoder(1 << 20)
    for index, fields in enumerate(blocks):
        if index == 2:
            encoder.header_table_size = 64
        data = encoder.encode(fields, huffman=index % 2 == 0)
        decoded = list(ours.decode(data))[-1][1]
        assert decoded.fields == [tuple(item) for item in theirs.decode(data, raw=True)]


@given(st.lists(st.tuples(st.binary(max_size=200), st.binary(max_size=300)), max_size=6))
def test_encoder_is_read_by_hpack(fields: list[Field]) -> None:
    for _ in range(2):
        data = encode_fields(fields)
        assert [tuple(item) for item in Decoder(1 << 20).decode(data, raw=True)] == fields


def test_secrets_are_never_indexed() -> None:
    decoded = Decoder().decode(encode_fields([(b"authorization", b"Bearer x")]), raw=True)
    assert isinstance(next(iter(decoded)), NeverIndexedHeaderTuple)


@given(st.binary(max_size=64))
def test_decoder_survives_garbage(data: bytes) -> None:
    codec, out = started()
    frame = HeadersFrame(1, data, flags=["END_HEADERS", "END_STREAM"]).serialize()
    codes = set()
    try:
        codec.receive(out + frame, 0.0)
    except H2ConnectionError as error:
        codes.add(error.code)
    assert codes <= {ErrorCodes.COMPRESSION_ERROR, ErrorCodes.PROTOCOL_ERROR}


@given(st.binary(max_size=40))
def test_huffman_agrees_with_hpack(data: bytes) -> None:
    results = []
    for decode in (decode_huffman, hpack_huffman):
        try:
            results.append(decode(data))
        except HPACKDecodingError:
            results.append(None)
    assert results[0] == results[1]


# --- the codec --------------------------------------------------------------------------------


def started(limits: H2Limits | None = None) -> tuple[H2Codec, bytes]:
    """A server codec, and what a client must say first."""
    codec = H2Codec(limits or H2Limits(), is_client=False)
    codec.start()
    codec.take()
    return codec, PREFACE + SettingsFrame(0).serialize()


def get(stream_id: int = 1) -> bytes:
    flags = ["END_HEADERS", "END_STREAM"]
    return HeadersFrame(stream_id, encode_fields(GET), flags=flags).serialize()


@pytest.mark.parametrize("cut", [1, 2, 7, 9, 10, 1000])
def test_split_anywhere_gives_the_same_events(cut: int) -> None:
    codec, out = started()
    head = HeadersFrame(3, encode_fields(GET), flags=["END_HEADERS"]).serialize()
    data = DataFrame(3, b"hello", flags=["PADDED", "END_STREAM"], pad_length=4).serialize()
    goaway = b"\0\0\x09\x07\0\0\0\0\0" + (5).to_bytes(4) + (2).to_bytes(4) + b"!"
    stream = out + get() + head + goaway + data
    events = []
    for start in range(0, len(stream), cut):
        events += codec.receive(stream[start : start + cut], 0.0)
    requests = [event for event in events if isinstance(event, RequestReceived)]
    assert [event.stream_id for event in requests] == [1, 3]
    assert block_of(requests[0]).fields == GET
    (arrived,) = [event for event in events if isinstance(event, DataReceived)]
    assert (arrived.data, arrived.flow_controlled_length) == (b"hello", 10)
    assert GoAwayReceived(5, 2) in events


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 120), st.integers(0, 255))
def test_no_octets_break_it_but_with_a_connection_error(
    junk: bytes, position: int, value: int
) -> None:
    codec, out = started()
    data = bytearray(out + get() + DataFrame(1, b"x").serialize() + junk)
    data[min(position, len(data) - 1)] = value
    try:
        codec.receive(bytes(data), 0.0)
    except H2ConnectionError:
        return
    codec.take()


def test_settings_are_announced() -> None:
    codec = H2Codec(H2Limits(allows_extended_connect=True), is_client=False)
    codec.start()
    data = codec.take()
    frame = SettingsFrame(0)
    frame.parse_body(memoryview(data[9 : 9 + data[2]]))
    assert frame.settings == {3: 100, 4: 65536, 5: 16384, 6: 32768, 8: 1}


@pytest.mark.parametrize("bad", [{"frame_bytes": 100}, {"stream_window_bytes": 2**31}])
def test_limits_http2_cannot_express_are_refused(bad: dict[str, int]) -> None:
    with pytest.raises(ConfigError):
        H2Limits(**bad)


def test_frames_go_on_after_goaway_both_ways() -> None:
    codec, out = started()
    codec.receive(out + get(), 0.0)
    codec.goaway(2**31 - 1, 0)
    codec.receive(get(3), 0.0)
    codec.respond(1, 200, [], end=True)
    codec.respond(3, 200, [], end=True)
    assert codec.take().count(b"\x00\x00\x01\x01\x05") == 1


def test_windows_are_returned_at_half() -> None:
    codec, out = started()
    head = HeadersFrame(1, encode_fields(GET), flags=["END_HEADERS"]).serialize()
    codec.receive(out + head, 0.0)
    codec.take()
    assert codec.consumed(1, 32767) == 32767
    assert codec.take() == b""
    assert codec.consumed(1, 32768) == 0
    assert codec.take() == b"\0\0\x04\x08\0\0\0\0\x01\0\0\x80\0"


def test_first_frame_must_be_settings() -> None:
    codec, _ = started()
    with pytest.raises(H2ConnectionError) as raised:
        codec.receive(PREFACE + PingFrame(0, opaque_data=b"12345678").serialize(), 0.0)
    assert raised.value.code == ErrorCodes.PROTOCOL_ERROR


def test_wrong_preface_is_a_connection_error() -> None:
    codec, _ = started()
    with pytest.raises(H2ConnectionError):
        codec.receive(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", 0.0)
