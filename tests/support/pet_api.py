"""The API of tests.support.openapi_documents.PETS, as far as tests need it; and its document."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from tests.support.openapi_documents import Node, pets
from tests.support.upstream import Answer, Seen

JSON = ("content-type", "application/json")
PNG = b"\x89PNG\r\n\x1a\n"


def _json(status: int, found: object) -> Answer:
    return Answer(status, [JSON], json.dumps(found).encode())


@dataclass
class PetApi:
    """An upstream's script. Ids of pets say what comes: see `_pet`."""

    document: Node = field(default_factory=pets)
    document_status: int = 200
    fetched: int = 0
    released: threading.Event = field(default_factory=threading.Event)

    def __call__(self, seen: Seen) -> Answer:
        parts = urlsplit(seen.target)
        if parts.path == "/openapi.json":
            self.fetched += 1
            return _json(self.document_status, self.document)
        path = parts.path.removeprefix("/v1")
        if path == "/pets" and seen.method == "GET":
            return _json(200, [{"name": "Rex", "id": 1, "query": parse_qs(parts.query)}])
        if path == "/pets":
            return _json(201, {**json.loads(seen.body), "id": 7})
        if path.endswith("/photo"):
            return Answer(200, [("content-type", "image/png")], PNG)
        if path.startswith("/pets/"):
            return self._pet(seen.method, path.removeprefix("/pets/"))
        if path in ("/login", "/note"):
            return Answer(200, [("content-type", "text/plain")], seen.body)
        return _json(404, {"error": "no such path"})

    def _pet(self, method: str, name: str) -> Answer:
        if method != "GET":
            return Answer(204)
        if name == "hang":
            self.released.wait(20)
        if name == "cut":
            return Answer(drop=True)
        if name == "garbage":
            return Answer(200, [JSON], b"<html>")
        if name == "huge":
            return Answer(200, [JSON], b'"' + b"x" * (5 * 1024 * 1024) + b'"')
        if name == "moved":
            return Answer(302, [("location", "http://169.254.169.254/")])
        if name == "broken":
            return _json(500, {"error": "it broke"})
        if name == "lies":
            return _json(200, {"name": 5})
        if not name.isdigit():
            return _json(404, {"error": f"no pet {name}"})
        return _json(200, {"name": "Rex", "id": int(name)})
