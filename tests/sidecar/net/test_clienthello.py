"""ClientHello parsing: what real clients send, what is broken, and any way of cutting it up."""

from __future__ import annotations

import ssl

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.net.clienthello import (
    MAX_HELLO_BYTES,
    MAX_OCTETS,
    ClientHello,
    HelloError,
    parse,
)
from tests.support.hello import (
    block,
    client_hello,
    extension,
    hello_message,
    records,
    server_name,
)


def real_hello(name: str | None, alpn: list[str] | None = None) -> bytes:
    context = ssl.create_default_context()
    if name is None:
        context.check_hostname = False
    if alpn:
        context.set_alpn_protocols(alpn)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = context.wrap_bio(incoming, outgoing, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def test_hello_of_openssl() -> None:
    assert parse(real_hello("Api.Example.com", ["h2", "http/1.1"])) == ClientHello(
        "api.example.com", (b"h2", b"http/1.1"), (0x0304, 0x0303)
    )
    found = parse(real_hello(None))
    assert found is not None
    assert (found.sni, found.alpn) == ("", ())


WHOLE = client_hello("a.example", [b"h2"], padding=300)
EXPECTED = ClientHello("a.example", (b"h2",), (0x0304, 0x0303))


def test_any_prefix_wants_more() -> None:
    for size in range(len(WHOLE)):
        assert parse(WHOLE[:size]) is None
    assert parse(WHOLE) == EXPECTED
    assert parse(bytearray(WHOLE)) == EXPECTED
    assert parse(WHOLE + b"what follows the hello is not looked at") == EXPECTED


@given(st.lists(st.integers(1, 120), max_size=8), st.integers(0, 400))
def test_any_fragmentation_into_records(sizes: list[int], cut: int) -> None:
    message = WHOLE[5:]
    sizes = [size for index, size in enumerate(sizes) if sum(sizes[: index + 1]) <= len(message)]
    split = records(message, sizes)
    assert parse(split) == EXPECTED
    assert parse(split[: min(cut, len(split) - 1)]) is None


def test_no_extensions_at_all() -> None:
    assert parse(records(hello_message(None))) == ClientHello("", (), (0x0303,))
    assert parse(records(hello_message(b""))) == ClientHello("", (), (0x0303,))


def test_a_final_dot_is_dropped() -> None:
    found = parse(client_hello("A.example."))
    assert found is not None
    assert found.sni == "a.example"


@pytest.mark.parametrize(
    "data", [b"GET / HTTP/1.1\r\n", b"P", b"\x15\x03", b"\x16\x02", b"\x80\x2e\x01", b"\x16\x00"]
)
def test_not_tls(data: bytes) -> None:
    with pytest.raises(HelloError) as caught:
        parse(data)
    assert not caught.value.is_tls


def names(data: bytes) -> bytes:
    return records(hello_message(extension(0, data)))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x16\x03\x01\x00\x00", id="empty-record"),
        pytest.param(b"\x16\x03\x01\x40\x01", id="record-too-big"),
        pytest.param(records(b"\x02" + block(b"x" * 40, 3)), id="server-hello"),
        pytest.param(
            records(b"\x01" + (MAX_HELLO_BYTES + 1).to_bytes(3, "big")), id="hello-too-big"
        ),
        pytest.param(
            WHOLE[:60].replace(WHOLE[3:5], b"\x00\x37", 1) + b"\x17\x03\x03\x00\x01x",
            id="another-record-inside",
        ),
        pytest.param(
            records(hello_message(server_name(b"a") + server_name(b"b"))),
            id="two-server-name-extensions",
        ),
        pytest.param(
            names(block(b"\x00" + block(b"a", 2) + b"\x00" + block(b"b", 2), 2)), id="two-names"
        ),
        pytest.param(names(block(b"\x01" + block(b"a", 2), 2)), id="name-of-another-type"),
        pytest.param(names(block(b"", 2)), id="no-name"),
        pytest.param(names(block(b"\x00" + block(b"a", 2), 2) + b"x"), id="after-the-names"),
        pytest.param(records(hello_message(server_name(b""))), id="empty-name"),
        pytest.param(records(hello_message(server_name(b"a\x00.example"))), id="nul-in-name"),
        pytest.param(records(hello_message(server_name(b"a b"))), id="space-in-name"),
        pytest.param(records(hello_message(server_name(b"*.a"))), id="wildcard-in-name"),
        pytest.param(records(hello_message(server_name(b"a..b"))), id="empty-label"),
        pytest.param(records(hello_message(server_name("ü".encode()))), id="not-ascii"),
        pytest.param(records(hello_message(server_name(b".".join([b"a" * 60] * 5)))), id="long"),
        pytest.param(records(hello_message(extension(16, block(b"", 2)))), id="empty-alpn"),
        pytest.param(records(hello_message(extension(16, block(b"\x00", 2)))), id="empty-protocol"),
        pytest.param(records(hello_message(extension(16, block(b"\x09h2", 2)))), id="cut-protocol"),
        pytest.param(records(hello_message(b"\x00\x00\x00\x09a")), id="cut-extension"),
        pytest.param(records(b"\x01" + block(b"\x03\x03" + bytes(20), 3)), id="cut-random"),
        pytest.param(
            records(b"\x01" + block(hello_message(None)[4:] + block(b"", 2) + b"x", 3)),
            id="after-the-extensions",
        ),
        pytest.param(
            records(hello_message(None), [1] * 80)[: 6 * 70] + b"\x16\x04\x00\x00\x01x",
            id="record-of-another-major-version",
        ),
    ],
)
def test_broken_hello(data: bytes) -> None:
    with pytest.raises(HelloError) as caught:
        parse(data)
    assert caught.value.is_tls


def test_octets_are_bounded() -> None:
    endless = records(hello_message(extension(21, bytes(8000))), [1] * 8000)
    assert len(endless) > MAX_OCTETS
    with pytest.raises(HelloError):
        parse(endless[:MAX_OCTETS])


@given(st.binary(max_size=200))
def test_any_octets_end_in_a_verdict(data: bytes) -> None:
    for octets in (data, b"\x16\x03\x01" + data, records(b"\x01" + block(data, 3))):
        try:
            found = parse(octets)
        except HelloError:
            continue
        assert found is None or isinstance(found, ClientHello)


@given(st.integers(0, len(WHOLE) - 1), st.integers(0, 255))
def test_any_octet_changed(at: int, value: int) -> None:
    data = bytearray(WHOLE)
    data[at] = value
    try:
        found = parse(data)
    except HelloError:
        return
    assert found is None or found.sni == found.sni.lower()
