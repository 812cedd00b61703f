"""Loading: golden files, caching, sources, places, and the reference's own configurations."""

from __future__ import annotations

import gc
import json
import time
from pathlib import Path

import pytest

from sidecar.config.local import ItemCache, Loaded, Source, load
from sidecar.config.problems import InvalidConfigError
from sidecar.config.text import resolve
from sidecar.errors import ConfigError

GOLDEN = Path(__file__).parents[2] / "golden" / "config"
CASES = sorted(path.stem for path in GOLDEN.glob("*.yaml"))
ENV = {"PORT": "8080", "HOME": "/home/someone"}


def load_text(text: str, **env: str) -> Loaded:
    return load(Source("<config>", content=text), env)


def refusals(text: str, **env: str) -> list[str]:
    with pytest.raises(InvalidConfigError) as caught:
        load_text(text, **env)
    return [problem.render("f") for problem in caught.value.problems]


def outcome(case: str) -> str:
    """What the golden file of a case holds: the data and the warnings, or the problems."""
    source = Source(f"{case}.yaml", GOLDEN / f"{case}.yaml")
    try:
        loaded = load(source, ENV)
    except InvalidConfigError as error:
        return "\n".join(problem.render(source.name) for problem in error.problems) + "\n"
    warnings = [problem.render(source.name) for problem in loaded.warnings]
    found = {"data": loaded.data, "files": loaded.files, "warnings": warnings}
    return json.dumps(found, indent=2, ensure_ascii=False) + "\n"


@pytest.mark.parametrize("case", CASES)
def test_golden(case: str) -> None:
    assert outcome(case) == (GOLDEN / f"{case}.golden").read_text()


def test_there_are_golden_cases() -> None:
    assert len(CASES) >= 8


@pytest.mark.parametrize("text", ["", "# only a comment\n", "null", "~", "{}"])
def test_nothing_is_a_valid_configuration(text: str) -> None:
    assert load_text(text).data == {}


@pytest.mark.parametrize("text", ["- 1", "text", "3"])
def test_anything_but_a_map_is_refused(text: str) -> None:
    assert refusals(text) == ["f: the configuration must be a map"]


def test_json_is_yaml() -> None:
    loaded = load_text('{"gateways": {"default": {"port": 80}}}')
    assert loaded.data == {"gateways": {"default": {"port": 80}}}


def test_missing_file_is_a_problem(tmp_path: Path) -> None:
    source = Source("gone.yaml", tmp_path / "gone.yaml")
    with pytest.raises(InvalidConfigError, match=r"gone\.yaml: cannot be read: No such file"):
        load(source, {})


def test_file_that_is_not_text_is_a_problem(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a: \xff")
    with pytest.raises(InvalidConfigError, match="not UTF-8 text"):
        load(Source("f", tmp_path / "f"), {})


def test_byte_order_mark_is_dropped(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbfgateways: {}")
    assert load(Source("f", tmp_path / "f"), {}).data == {"gateways": {}}


def test_places_survive_expansion() -> None:
    text = "# é ${LONG}\ngateways: {a: {port: $PORT, prot: 1}}\n"
    (line,) = refusals(text, LONG="a comment that grows", PORT="1234")
    assert line.startswith("f:2:29: gateways.a.prot: unknown field `prot`")


def test_secrets_are_not_repeated() -> None:
    secret = "hunter2"
    text = f"""
config: {{database: {{url: [{secret}]}}, session: {{key: 12345}}}}
llm:
  models: [{{name: [{secret}], provider: {secret}, params: {{apiKey: 98765}}}}]
routes: [{{backends: [{{host: "user:{secret}@host"}}]}}]
frontendPolicies: {{http: {{maxBufferSize: {secret}}}}}
"""
    printed = "\n".join(refusals(text))
    assert "apiKey: invalid type: integer, expected" in printed
    for hidden in ("12345", "98765"):
        assert hidden not in printed
    assert printed.count(secret) == 1  # an unknown variant is named, where no secret belongs


def test_yaml_errors_show_no_text() -> None:
    (line,) = refusals("a: [hunter2\nb: }")
    assert line.startswith("f:2:2: invalid YAML: ")
    assert "hunter2" not in line


def test_files_to_watch_are_listed() -> None:
    loaded = load_text(
        "gateways: {default: {port: 1, tls: {cert: c.pem, key: k.pem}}}\n"
        "routes: [{backends: [{host: 'a:1', policies: {backendTLS: {root: r.pem}}}]}]\n"
    )
    assert sorted(loaded.files) == ["c.pem", "k.pem", "r.pem"]


def test_cross_field_errors_get_places() -> None:
    loaded = load_text("gateways:\n  a.b:\n    port: 1\n")
    (problem,) = loaded.place([ConfigError("gateways.a.b.port", "taken")])
    assert (problem.line, problem.column, problem.path) == (3, 11, 'gateways["a.b"].port')


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        ("", ()),
        ("a[1].b", ("a", 1, "b")),
        ("x.y.z", ("x.y", "z")),
        ('["x.y"].z', ("x.y", "z")),
        ("no.such[0]", ("no", "such", 0)),
        ("a..b", ("a", ".", "b")),
    ],
)
def test_resolve(path: str, parts: tuple[str | int, ...]) -> None:
    assert resolve(path, {"x.y": {"z": 1}, "a": [{}, {"b": 1}]}) == parts


ROUTES = "routes:\n" + "".join(
    f"- name: r{index}\n  gateways: g\n  backends: [{{host: 'h{index}:80'}}]\n"
    for index in range(50)
)


def test_unchanged_items_keep_their_identity() -> None:
    cache = ItemCache()
    first = load(Source("f", content=ROUTES), {}, cache).data["routes"]
    second = load(Source("f", content=ROUTES.replace("h7:", "h77:")), {}, cache).data["routes"]
    changed = [a is not b for a, b in zip(first, second, strict=True)]
    assert changed == [index == 7 for index in range(50)]


def test_a_refused_load_keeps_the_cache() -> None:
    cache = ItemCache()
    first = load(Source("f", content=ROUTES), {}, cache).data["routes"]
    with pytest.raises(InvalidConfigError):
        load(Source("f", content=ROUTES.replace("h7:80", "h7")), {}, cache)
    again = load(Source("f", content=ROUTES), {}, cache).data["routes"]
    assert all(a is b for a, b in zip(first, again, strict=True))


def test_cache_forgets_what_is_gone() -> None:
    cache = ItemCache()
    first = load(Source("f", content=ROUTES), {}, cache).data["routes"][0]
    load(Source("f", content="{}"), {}, cache)
    load(Source("f", content="{}"), {}, cache)
    assert load(Source("f", content=ROUTES), {}, cache).data["routes"][0] is not first


def test_cached_items_still_name_their_files() -> None:
    text = "routes: [{backends: [{host: 'a:1', policies: {backendTLS: {root: r.pem}}}]}]"
    cache = ItemCache()
    for _ in range(2):
        assert load(Source("f", content=text), {}, cache).files == ["r.pem"]


def test_collection_is_on_again_afterwards() -> None:
    was_enabled = gc.isenabled()
    gc.enable()
    try:
        refusals("a: 1")
        load_text(ROUTES)
        assert gc.isenabled()
    finally:
        # Whatever another test left: this one is about what loading does.
        if not was_enabled:
            gc.disable()


@pytest.mark.parametrize(
    ("source", "problem"),
    [
        ("{url: 'https://u:t0p@h/x'}", "expected https://host/path"),
        ("{url: 'file:///etc/passwd'}", "expected https://host/path"),
        ("{url: 'https://h:0/x'}", "expected https://host/path"),
        ("{url: 'https://h/x', refresh: 59s}", "must be 1m to 720h"),
        ("{file: x.json, refresh: 1h}", "`refresh` is for `url` only"),
        ("{url: 'https://h/x', inline: '{}'}", "exactly one of"),
    ],
)
def test_catalogues_that_cannot_be_fetched(source: str, problem: str) -> None:
    (found,) = refusals(f"config: {{modelCatalog: [{source}]}}")
    assert problem in found
    assert "t0p" not in found


def test_many_routes_load_in_time() -> None:
    text = "routes:\n" + "".join(
        f"- name: route-{n}\n  gateways: g\n  hostnames: [h{n}.example.com]\n"
        f"  matches:\n  - path: {{pathPrefix: /svc/{n}}}\n"
        f"  policies:\n    timeout: {{requestTimeout: 5s}}\n"
        f"  backends:\n  - host: 10.0.{n % 255}.{n % 250}:8080\n"
        for n in range(2000)
    )
    started = time.process_time()
    load_text(text)
    # 0.13 s where it was written; the rest is for slow machines.
    assert time.process_time() - started < 1.5
