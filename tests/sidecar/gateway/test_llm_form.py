"""The model of a multipart form."""

from __future__ import annotations

import pytest

from sidecar.gateway.llm_form import form_model

KIND = b'multipart/form-data; boundary="x y"'


def form(*parts: tuple[bytes, bytes]) -> bytes:
    blocks = [
        b'--x y\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % part for part in parts
    ]
    return b"".join(blocks) + b"--x y--\r\n"


def test_found_among_others() -> None:
    body = form((b"file", b"\x00\r\n\r\n\xff"), (b"model", b"whisper-1"), (b"n", b"1"))
    assert form_model(KIND, body) == "whisper-1"


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (None, form((b"model", b"m"))),
        (b"application/json", form((b"model", b"m"))),
        (b"multipart/form-data", form((b"model", b"m"))),
        (KIND, form((b"other", b"m"))),
        (KIND, form((b"model", b""))),
        (KIND, form((b"model", b"m" * 300))),
        (KIND, b""),
    ],
)
def test_nothing_to_find(kind: bytes | None, body: bytes) -> None:
    assert form_model(kind, body) is None
