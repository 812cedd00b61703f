"""A strict origin on a raw socket that records what reaches it, and a raw client for the front.

The parser here is written apart from the gateway's: what it takes for one request, the gateway must
have meant as one. Whatever breaks RFC 9112 goes to `problems` and ends the connection.
"""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from tests.support.octets import TcpUpstream

TIMEOUT_SECONDS = 20.0
_LINE = re.compile(rb"([A-Z]+) ([!-~]+) HTTP/1\.1")
_FIELD = re.compile(rb"([!#-'*+.^_`|~0-9a-z-]+): ([\t -~\x80-\xff]*)")
_SIZE = re.compile(rb"[0-9a-f]{1,8}")


class ProtocolError(Exception):
    """What came is not HTTP/1.1 as a careful sender writes it."""


@dataclass
class Recorded:
    """One whole request. `headers` in wire order."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    connection: int = 0

    def values(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]


class Stream:
    """One accepted connection, as a script sees it."""

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.buffer = b""

    def more(self) -> bool:
        data = self.sock.recv(65536)
        self.buffer += data
        return bool(data)

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def reset(self) -> None:
        """End the connection by RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.sock.close()

    def wait_end(self) -> None:
        """Until the peer has ended its side or reset."""
        with contextlib.suppress(ConnectionError):
            while self.sock.recv(65536):
                pass

    def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            if not self.more():
                raise EOFError
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        if b"\r" in line or b"\n" in line:
            raise ProtocolError(f"a bare CR or LF in {line!r}")
        return line

    def take(self, count: int) -> bytes:
        parts = [self.buffer]
        missing = count - len(self.buffer)
        while missing > 0:
            parts.append(self.sock.recv(min(missing, 1 << 20)))
            if not parts[-1]:
                raise EOFError
            missing -= len(parts[-1])
        data = b"".join(parts)
        self.buffer = data[count:]
        return data[:count]

    def fields(self) -> list[tuple[str, str]]:
        found = []
        while line := self.line():
            match = _FIELD.fullmatch(line)
            if match is None:
                raise ProtocolError(f"a bad field {line!r}")
            found.append((match[1].decode(), match[2].decode("latin-1")))
        return found

    def read_head(self) -> Recorded | None:
        """The next request's head; None when the connection ended between requests."""
        if not self.buffer and not self.more():
            return None
        line = self.line()
        match = _LINE.fullmatch(line)
        if match is None:
            raise ProtocolError(f"a bad request line {line!r}")
        head = Recorded(match[1].decode(), match[2].decode(), self.fields())
        head.connection = self.number
        if len(head.values("host")) != 1:
            raise ProtocolError("not exactly one Host")
        return head

    def read_body(self, head: Recorded) -> None:
        """The body by the head's framing, which must leave no choice."""
        lengths, codings = head.values("content-length"), head.values("transfer-encoding")
        if len(lengths) + len(codings) > 1:
            raise ProtocolError("more than one framing field")
        if lengths:
            if not re.fullmatch("0|[1-9][0-9]{0,15}", lengths[0]):
                raise ProtocolError(f"a bad length {lengths[0]!r}")
            head.body = self.take(int(lengths[0]))
        elif codings:
            if codings != ["chunked"]:
                raise ProtocolError(f"a bad coding {codings[0]!r}")
            self._read_chunks(head)

    def _read_chunks(self, head: Recorded) -> None:
        parts = []
        while True:
            line = self.line()
            if not _SIZE.fullmatch(line):
                raise ProtocolError(f"a bad chunk size {line!r}")
            size = int(line, 16)
            if not size:
                break
            parts.append(self.take(size))
            if self.take(2) != b"\r\n":
                raise ProtocolError("chunk data does not end in CRLF")
        head.body = b"".join(parts)
        head.trailers = self.fields()


def answer(body: bytes = b"ok", *fields: bytes, line: bytes = b"HTTP/1.1 200 OK") -> bytes:
    """A response with a length."""
    lines = [line, *fields, b"content-length: %d" % len(body)]
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


Script = Callable[[Stream, Recorded], bool | None]
"""Answers one request whose head and body were read; False ends the connection after it."""


def _answer(stream: Stream, request: Recorded) -> None:
    stream.send(answer())


class Origin(TcpUpstream):
    """`with Origin() as origin:` listens on a loopback port until the block ends.

    `script` answers each request. `on_head`, when set, is called in its place, before the body is
    read, and does everything itself.
    """

    def __init__(self, script: Script = _answer, *, on_head: Script | None = None) -> None:
        super().__init__()
        self.script = script
        self.on_head = on_head
        self.requests: list[Recorded] = []
        self.heads: list[Recorded] = []
        self.problems: list[str] = []
        self.connections = 0
        self.ended = 0
        self.changed = threading.Condition()

    def _take(self, sock: socket.socket) -> None:
        with self.changed:
            self.connections += 1
            stream = Stream(sock, self.connections)
        self._run(self._serve, stream)

    def _serve(self, stream: Stream) -> None:
        try:
            while self._answer_one(stream):
                pass
        except ProtocolError as error:
            self.problems.append(str(error))
        except (EOFError, OSError):
            pass  # a peer that leaves in mid-message: nothing whole was received
        finally:
            stream.sock.close()
            with self.changed:
                self.open.remove(stream.sock)
                self.ended += 1
                self.changed.notify_all()

    def _answer_one(self, stream: Stream) -> bool:
        head = stream.read_head()
        if head is None:
            return False
        with self.changed:
            self.heads.append(head)
            self.changed.notify_all()
        if self.on_head is not None:
            return self.on_head(stream, head) is not False
        stream.read_body(head)
        with self.changed:
            self.requests.append(head)
            self.changed.notify_all()
        return self.script(stream, head) is not False

    def wait(self, condition: Callable[[Self], bool], seconds: float = TIMEOUT_SECONDS) -> None:
        """Until the condition holds; it is looked at when something was received or ended."""
        with self.changed:
            assert self.changed.wait_for(lambda: condition(self), seconds), self


@dataclass
class Answer:
    """One response as the client saw it. `is_cut`: the connection ended before the body did."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    is_cut: bool = False
    chunks: list[bytes] = field(default_factory=list)

    def value(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)


class Client:
    """A raw connection to a port: sends octets as told, reads responses strictly."""

    def __init__(self, port: int, *, receive_buffer: int = 0) -> None:
        self.sock = socket.socket()
        if receive_buffer:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.sock.settimeout(TIMEOUT_SECONDS)
        self.sock.connect(("127.0.0.1", port))
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = Stream(self.sock, 0)

    def send(self, data: bytes, cut: int = 0) -> None:
        """Send, `cut` octets a segment; a peer that has closed already is no error."""
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(data), cut or len(data) or 1):
                self.sock.sendall(data[start : start + (cut or len(data))])

    def read_head(self) -> Answer:
        """The next response's head, interim ones included."""
        match = re.fullmatch(rb"HTTP/1\.1 ([1-5]\d\d) [ -~]*", self.stream.line())
        assert match is not None
        return Answer(int(match[1]), self.stream.fields())

    def read(self, *, is_head: bool = False) -> Answer:
        """The next final response with its body."""
        found = self.read_head()
        while found.status < 200:
            found = self.read_head()
        if is_head or found.status in (204, 304):
            return found
        try:
            self._read_body(found)
        except (EOFError, ConnectionError):
            found.is_cut = True
        return found

    def _read_body(self, found: Answer) -> None:
        length = found.value("content-length")
        if length is not None:
            found.body = self.stream.take(int(length))
        elif found.value("transfer-encoding") == "chunked":
            while size := int(self.stream.line(), 16):
                found.chunks.append(self.stream.take(size))
                found.body += found.chunks[-1]
                assert self.stream.take(2) == b"\r\n"
            found.trailers = self.stream.fields()
        else:
            while self.stream.more():
                pass
            found.body, self.stream.buffer = self.stream.buffer, b""

    def ask(self, data: bytes, *, is_head: bool = False) -> Answer:
        """Send a request and read its response."""
        self.send(data)
        return self.read(is_head=is_head)

    def skip(self, count: int) -> int:
        """Take octets without keeping them; how many, at least one and at most `count`."""
        kept = len(self.stream.buffer)
        if kept:
            self.stream.buffer = self.stream.buffer[count:]
            return min(kept, count)
        taken = self.sock.recv_into(bytearray(min(count, 1 << 20)))
        assert taken, "the connection ended"
        return taken

    def rest(self) -> bytes:
        """Everything until the connection ends."""
        with contextlib.suppress(ConnectionError):
            while self.stream.more():
                pass
        return self.stream.buffer

    def close(self) -> None:
        self.sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
