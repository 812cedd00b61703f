"""The model of a multipart form."""

from __future__ import annotations

import pytest

from sidecar.gateway.llm_form import form_model, with_form_model

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
        (KIND, form((b"other", b"m"))),
        (KIND, b""),
    ],
)
def test_nothing_to_find(kind: bytes | None, body: bytes) -> None:
    assert form_model(kind, body) is None


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (b"multipart/form-data", form((b"model", b"m"))),
        (KIND + b"; boundary=z", form((b"model", b"m"))),
        (KIND, form((b"model", b""))),
        (KIND, form((b"model", b"m" * 300))),
        # Which of them would the provider take?
        (KIND, form((b"model", b"m"), (b"n", b"1"), (b"model", b"other"))),
        (KIND, form((b"model", b"m"), (b"x", b"y")).replace(b'"x"', b"model")),
        (KIND, form((b"model", b"m"), *[(b"a", b"b")] * 130)),
    ],
)
def test_what_nobody_can_tell(kind: bytes, body: bytes) -> None:
    assert form_model(kind, body) == ""


def test_another_model() -> None:
    parts = ((b"file", b"\x00\r\n--x \r\n\xff"), (b"n", b"model"), (b"prompt", b"a"))
    body = form(*parts, (b"model", b"whisper-1"), (b"models", b"second"))
    expected = form(*parts, (b"model", "größer".encode()), (b"models", b"second"))
    assert with_form_model(KIND, body, "größer") == expected
    assert with_form_model(b"application/json", body, "x") is None
    assert with_form_model(None, body, "x") is None
    assert with_form_model(KIND, form(*parts), "x") is None
    assert with_form_model(KIND, body + body, "x") is None
