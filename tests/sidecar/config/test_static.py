"""The `config` section: defaults, the environment, and what they make of the frontend policies."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from sidecar.config.local import Source
from sidecar.config.model.base import NOT_YET
from sidecar.config.model.static import StaticConfig
from sidecar.config.normalise import normalise
from sidecar.config.problems import InvalidConfigError
from sidecar.config.snapshot import Snapshot
from sidecar.config.static import static_config
from sidecar.errors import ConfigError
from sidecar.gateway.loading import Loader


def normalised(data: dict[str, Any], env: dict[str, str]) -> tuple[Snapshot, list[str]]:
    problems: list[ConfigError] = []
    snapshot = normalise(data, problems, env=env)
    return snapshot, [str(problem) for problem in problems]


def test_the_environment_overrides_the_file() -> None:
    env = {
        "ADMIN_ADDR": "127.0.0.1:1",
        "IPV6_ENABLED": "false",
        "TERMINATION_GRACE_PERIOD_SECONDS": "30",
        "CPU_LIMIT": "3",
        "RUST_LOG": "debug",
        "LOG_FORMAT": "json",
        "STATS_ADDR": "",
        "FRONT_DOOR": "granian",
        "STATE_RATE_KEYS": "5000",
        "STATE_KEEP": "true",
    }
    file: dict[str, Any] = {"adminAddr": "off", "workerThreads": "50%"}
    config: Any = static_config({"config": file}, env)
    assert config["adminAddr"] == "127.0.0.1:1"
    assert config["statsAddr"] == "0.0.0.0:15020"
    assert config["connectionTerminationDeadline"] == "25s"
    assert config["workerThreads"] == 2
    assert config["frontDoor"] == "granian"
    assert config["state"] == {"rateKeys": 5000, "keep": True}
    assert config["logging"] == {"level": "debug", "format": "json"}


@pytest.mark.parametrize(("grace", "deadline"), [("11", "6s"), ("10", "9s"), ("1", "1s")])
def test_the_grace_period_bounds_the_drain(grace: str, deadline: str) -> None:
    config = static_config({}, {"TERMINATION_GRACE_PERIOD_SECONDS": grace})
    assert config["connectionTerminationDeadline"] == deadline


def test_static_config_is_fresh_each_time() -> None:
    first: Any = static_config({}, {})
    first["backend"]["connectTimeout"] = "1h"
    second: Any = static_config({}, {})
    assert second["backend"]["connectTimeout"] == "10s"


def test_tracing_from_the_environment() -> None:
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://otel:4318",
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
        "OTEL_EXPORTER_OTLP_HEADERS": "x-key=a%20%22b%22",
        "OTEL_SERVICE_NAME": "gw",
        "OTEL_RESOURCE_ATTRIBUTES": "team=a,service.name=other",
    }
    snapshot, _ = normalised({}, env)
    assert snapshot.dump()["frontend/tracing"]["policy"] == {
        "host": "otel:4318",
        "protocol": "http",
        "policies": {"transformations": {"request": {"set": {"x-key": '"a \\"b\\""'}}}},
        "resources": {"team": '"a"', "service.name": '"gw"'},
    }


def test_configured_tracing_wins_over_the_environment() -> None:
    data = {"frontendPolicies": {"tracing": {"host": "mine:4317"}}}
    snapshot, _ = normalised(data, {"OTLP_ENDPOINT": "http://other:4317"})
    policy: Any = snapshot.dump()["frontend/tracing"]["policy"]
    assert policy["host"] == "mine:4317"
    assert len(snapshot.warnings) == 1


ENVIRONMENT: dict[str, tuple[dict[str, str], str]] = {
    "address": ({"ADMIN_ADDR": "nowhere"}, "config.adminAddr: environment variable ADMIN_ADDR"),
    "flag": ({"IPV6_ENABLED": "maybe"}, "config.enableIpv6: environment variable IPV6_ENABLED"),
    "threads": ({"WORKER_THREADS": "-1"}, "config.workerThreads: environment variable"),
    "front door": ({"FRONT_DOOR": "hyper"}, "config.frontDoor: environment variable"),
    "no keys": ({"STATE_RATE_KEYS": "0"}, "config.state.rateKeys: environment variable"),
    "many keys": ({"STATE_RATE_KEYS": "100000001"}, "config.state.rateKeys: environment variable"),
    "duration": (
        {"CONNECTION_TERMINATION_DEADLINE": "5"},
        "config.connectionTerminationDeadline: environment variable",
    ),
    "grace": (
        {"TERMINATION_GRACE_PERIOD_SECONDS": "x"},
        "config.connectionTerminationDeadline: environment variable TERMINATION_GRACE_PERIOD",
    ),
    "protocol": (
        {"OTLP_ENDPOINT": "http://a:1", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"},
        "config.tracing.otlpProtocol: unsupported OTLP protocol `http/json`",
    ),
    "headers": (
        {"OTLP_ENDPOINT": "http://a:1", "OTEL_EXPORTER_OTLP_HEADERS": "secret"},
        "config.tracing.headers: environment variable OTEL_EXPORTER_OTLP_HEADERS: invalid value",
    ),
}


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_problems_of_the_environment(name: str) -> None:
    env, expected = ENVIRONMENT[name]
    _, (found,) = normalised({}, env)
    assert expected in found


REFUSED = {
    "LOCAL_XDS_PATH": "configuration file beside the main one",
    "UI_READ_ONLY": "UI",
}


@pytest.mark.parametrize(("variable", "feature"), REFUSED.items())
def test_variables_of_what_is_not_built_are_refused(variable: str, feature: str) -> None:
    _, found = normalised({}, {variable: "hunter2"})
    assert found == [f"{variable}: not supported yet ({feature})"]
    assert normalised({}, {variable: ""})[1] == []
    with pytest.raises(ConfigError) as caught:
        static_config({}, {variable: "hunter2"})
    assert caught.value.path == variable


def test_every_refused_variable_is_reported() -> None:
    _, found = normalised({}, dict.fromkeys(REFUSED, "1"))
    assert [line.partition(":")[0] for line in found] == list(REFUSED)


def test_the_loader_names_the_variable() -> None:
    source = Source("f.yaml", content="gateways: {}\n")
    with pytest.raises(InvalidConfigError) as caught:
        Loader(source, {"UI_READ_ONLY": "true"}).load()
    (problem,) = caught.value.problems
    line = problem.render("f.yaml")
    assert line.endswith("UI_READ_ONLY: not supported yet (UI)")


def test_variables_that_a_pod_sets_anyway_are_allowed() -> None:
    names = ("NAMESPACE", "GATEWAY", "NETWORK", "TRUST_DOMAIN", "CLUSTER_ID", "SERVICE_ACCOUNT")
    _, found = normalised({}, dict.fromkeys((*names, "NODE_NAME", "POD_NAME"), "a"))
    assert found == []


def test_the_session_key_of_the_environment() -> None:
    assert static_config({}, {"SESSION_KEY": "AB" * 32})["session"]["key"] == "AB" * 32
    _, (found,) = normalised({}, {"SESSION_KEY": "hunter2"})
    assert found.startswith("config.session.key: ")
    assert "hunter2" not in found


def test_secrets_are_not_shown() -> None:
    _, (found,) = normalised({"config": {"session": {"key": "hunter2"}}}, {})
    assert found.startswith("config.session.key: invalid value: ")
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("address", "is_valid"),
    [
        ("127.0.0.1:1", True),
        ("[::]:15020", True),
        ("localhost:0", True),
        ("unix:/run/a.sock", True),
        ("off", True),
        ("::1:80", False),
        ("a.test:80", False),
        ("127.0.0.1", False),
        ("127.0.0.1:70000", False),
        ("unix:a", False),
    ],
)
def test_addresses(address: str, is_valid: bool) -> None:
    data: dict[str, Any] = {"config": {"statsAddr": address}}
    if is_valid:
        assert static_config(data, {})["statsAddr"] == address
        return
    with pytest.raises(ConfigError, match=r"config\.statsAddr"):
        static_config(data, {})


@pytest.mark.parametrize(
    ("config", "env", "journal"),
    [
        ({}, {}, None),
        ({"database": {"url": "sqlite:///data/a.db?mode=rwc"}}, {}, "/data/a.db.budgets"),
        ({"database": {"url": "sqlite:a.db"}}, {}, "a.db.budgets"),
        ({"database": {"url": "sqlite://a.db"}, "state": {"journal": "b"}}, {}, "b"),
        ({"database": {"url": "sqlite://a.db"}}, {"STATE_JOURNAL": "c"}, "c"),
    ],
)
def test_budgets_are_written_beside_the_database(
    config: dict[str, Any], env: dict[str, str], journal: str | None
) -> None:
    state: Any = static_config({"config": config}, env)["state"]
    assert state.get("journal") == journal


@pytest.mark.parametrize(
    "url", ["mysql://u:p4ss@h/d", "sqlite::memory:", "sqlite://", "a.db", "mysql://x"]
)
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(ValidationError) as caught:
        StaticConfig.model_validate({"database": {"url": url}})
    (problem,) = caught.value.errors()
    assert problem["type"] == NOT_YET
    assert "p4ss" not in problem["msg"]
