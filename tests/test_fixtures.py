"""Every configuration of the reference is honoured, and what it uses is exercised by a test."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from sidecar.config.local import Source, load
from sidecar.config.normalise import normalise
from sidecar.config.problems import InvalidConfigError
from sidecar.errors import ConfigError
from sidecar.gateway.check import Checker
from tests.support.certificates import make_pair
from tests.support.fixtures import CONFIGS, EveryVariable, needs_fixtures
from tests.support.issuer import jwk, jwks

SECRETS = {"OIDC_COOKIE_SECRET": "0f" * 32}
PAIR = make_pair("a.test")
NAMED_FILE = re.compile(r"^\s*file: (\./\S+)$", re.MULTILINE)
"""What a load reads at once, from the folder the process runs in."""


def read_file(path: str) -> bytes:
    """Stands for files the configurations name and the reference does not keep with them."""
    return (PAIR.key if "key" in path else PAIR.cert).encode()


def write_named_files(text: str, folder: Path) -> None:
    """Keys and key sets that the reference has in its tree and not with its configurations."""
    for name in NAMED_FILE.findall(text):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(PAIR.key if file.suffix == ".pem" else jwks(jwk("rsa")))


def problems_of(file: Path) -> list[str]:
    """What the stages of a load find, up to the first that finds something."""
    try:
        # `x` replaces variables in the text alone: no ADMIN_ADDR is meant to be `x`.
        loaded = load(Source(file.name, file), EveryVariable())
    except InvalidConfigError as error:
        return [problem.message for problem in error.problems]
    found: list[ConfigError] = []
    snapshot = normalise(loaded.data, found, read_file=read_file, env={})
    return [problem.message for problem in found or Checker(SECRETS).check(snapshot)]


@needs_fixtures
@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_reference_configuration(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_named_files(file.read_text(), tmp_path)
    monkeypatch.chdir(tmp_path)
    assert problems_of(file) == []


EXERCISED = {
    "accessLog": "telemetry::text_access_log",
    "tracing": "telemetry::spans_reach_a_collector",
    "http": "llm_faults::bodies_that_are_too_large",
    "a2a": "a2a::a_message_its_task_and_its_end",
    "ai.promptGuard": "llm_cloud_guards::prompts",
    "ai.prompts": "llm_routing::edits",
    "ai.routes": "llm_routing::same_format_whole",
    "authorization": "policies::authorization",
    "backendAuth.aws": "backend_auth_aws::a_runtime_of_agent_core_that_is_an_mcp_server",
    "backendAuth.credentials": "backend_auth_aws::the_example",
    "backendAuth.crossAppAccess": "backend_auth::an_identity_assertion_buys_a_token",
    "backendAuth.jwtSign": "backend_auth::a_token_that_the_gateway_signs",
    "backendAuth.key": "backend_auth_aws::the_example",
    "backendAuth.oauthTokenExchange": "backend_auth::an_exchange",
    "backendAuth.passthrough": "backend_auth::the_clients_own_token_is_shown_again",
    "backendTLS": "tls::backend_tls",
    "cors": "policies::cors",
    "directResponse": "policies::direct_response",
    "extAuthz.cache": "ext_authz::a_token_is_exchanged_and_kept",
    "extAuthz.includeRequestHeaders": "ext_authz::ways_to_a_plain_service",
    "extAuthz.protocol": "ext_authz::ways_to_a_plain_service",
    "guardrails": "llm_guards::guards_of_llm_mode_join",
    "inferenceRouting": "inference_routing::requests_go_where_the_picker_says",
    "jwtAuth": "jwt_auth::a_token_lets_in_and_goes_no_further",
    "localRateLimit": "rate_limits::a_limit_is_exact_over_workers",
    "mcpAuthorization": "mcp_several_servers::rules_of_all_levels_hold",
    "requestHeaderModifier": "policies::request_header_modifier",
    "requestMirror": "policies::mirror_sends_the_head_alone",
    "responseHeaderModifier": "policies::response_header_modifier",
    "retry": "policies::retry_until_it_works",
    "timeout": "policies::timeout_and_delay",
    "transformations": "policies::transformations",
    "urlRewrite": "policies::url_rewrite",
}
"""Each policy of the reference's configurations, and what runs it: `integration/test_A.py::test_B`
as `A::B`."""
_IN_PARTS = frozenset(("ai", "backendAuth", "extAuthz"))
"""Policies of which each part is worth a test."""


def policies_in(node: Any) -> Iterator[str]:
    """Names of policies anywhere below."""
    if isinstance(node, list):
        for value in node:
            yield from policies_in(value)
    if not isinstance(node, dict):
        return
    for key, value in node.items():
        if str(key).lower().endswith("policies") and isinstance(value, dict):
            for name, payload in value.items():
                parts = payload if name in _IN_PARTS else ()
                yield from (f"{name}.{part}" for part in parts if part != "host")
                if not parts:
                    yield name
        yield from policies_in(value)


@needs_fixtures
def test_every_policy_that_they_use_is_in_the_table() -> None:
    used = {name for file in CONFIGS for name in policies_in(yaml.safe_load(file.read_text()))}
    assert used == EXERCISED.keys()


@pytest.mark.parametrize("name", EXERCISED.values(), ids=list(EXERCISED))
def test_what_exercises_a_policy_exists(name: str) -> None:
    module, _, test = name.partition("::")
    text = (Path(__file__).parent / f"integration/test_{module}.py").read_text()
    assert f"def test_{test}(" in text
