"""Guards of clouds through the gateway: prompts, whole answers, streams, and services that fail.

Source: spec/llm.md section 4.2.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.support.client import Got, fetch
from tests.support.gateway import GatewayProcess, free_ports, run_until_exit
from tests.support.guards import KEY, SECRET, TOKEN, GuardServices
from tests.support.parrot import last_error, parrot, said, streamed
from tests.support.upstream import Upstream

PORT, EXAMPLE = free_ports(2)
LONG = "word " * 300
SERVICES = ["moderation", "bedrock", "armor", "azure-key", "azure-entra"]
OF_ANSWERS = SERVICES[1:]
MASKS = {"bedrock": "{NAME}", "armor": "[NAME]"}


def service(name: str, address: str, **more: Any) -> dict[str, Any]:
    """The entry of a guard."""
    keyed = {"backendAuth": {"key": TOKEN}, **more.pop("policies", {})}
    policies = {key: value for key, value in keyed.items() if key != "backendAuth"}
    place = {"hostOverride": address, **more}
    azure = {"endpoint": f"http://{address}/", **more}
    return {
        "moderation": {"openAIModeration": {**place, "policies": keyed}},
        "bedrock": {
            "bedrockGuardrails": {
                "guardrailIdentifier": "gr-1",
                "guardrailVersion": "7",
                "region": "us-east-1",
                "policies": policies,
                **place,
            }
        },
        "armor": {
            "googleModelArmor": {
                "templateId": "t-1",
                "projectId": "p-1",
                "policies": policies,
                **place,
            }
        },
        "azure-key": {
            "azureContentSafety": {
                "analyzeText": {},
                "detectJailbreak": {},
                "policies": keyed,
                **azure,
            }
        },
        "azure-entra": {"azureContentSafety": {"policies": policies, **azure}},
    }[name]


@pytest.fixture(scope="module")
def model() -> Iterator[Upstream]:
    with Upstream(parrot) as made:
        yield made


@pytest.fixture(scope="module")
def services() -> Iterator[GuardServices]:
    with GuardServices() as made:
        yield made


def google_account(address: str) -> str:
    """A service account whose tokens come from the simulated service."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    account = {
        "type": "service_account",
        "client_email": "gateway@p-1.iam.gserviceaccount.com",
        "private_key": pem,
        "token_uri": f"http://{address}/token",
    }
    return orjson.dumps(account).decode()


@pytest.fixture(scope="module")
def gateway(
    model: Upstream, services: GuardServices, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    def route(name: str, guard: dict[str, Any]) -> dict[str, Any]:
        ai = {"name": name, "provider": {"openAI": {}}, "hostOverride": model.address}
        return {
            "name": name,
            "matches": [{"path": {"pathPrefix": f"/{name}/"}}],
            "policies": {"ai": {"promptGuard": guard, "routes": {"*": "completions"}}},
            "backends": [{"ai": {**ai, "pathPrefix": "/v1"}}],
        }

    rejection = {"status": 451, "body": "not here", "headers": {"set": {"x-guard": "cloud"}}}
    routes = []
    for name in SERVICES:
        entry = {**service(name, services.address), "rejection": rejection}
        hasty = service(name, services.address, policies={"http": {"requestTimeout": "200ms"}})
        lenient = service(name, services.address, failureMode="failOpen")
        routes.append(route(f"{name}-in", {"request": [entry]}))
        routes.append(route(f"{name}-hasty", {"request": [hasty]}))
        routes.append(route(f"{name}-open", {"request": [lenient]}))
        if name in OF_ANSWERS:
            routes.append(route(f"{name}-out", {"streaming": "Enabled", "response": [entry]}))
    account: Path = tmp_path_factory.mktemp("google") / "account.json"
    account.write_text(google_account(services.address))
    environment = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "GOOGLE_APPLICATION_CREDENTIALS": str(account),
        "IDENTITY_ENDPOINT": f"http://{services.address}/msi",
        "IDENTITY_HEADER": "x",
    }
    config = {"binds": [{"port": PORT, "listeners": [{"routes": routes}]}]}
    with GatewayProcess(config, env=environment) as made:
        yield made


def ask(route: str, text: str, **more: Any) -> Got:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], **more}
    headers = {"content-type": "application/json"}
    target = f"/{route}/v1/chat/completions"
    return fetch(PORT, target, "POST", headers=headers, body=orjson.dumps(body))


@pytest.mark.parametrize("name", SERVICES)
def test_prompts(gateway: GatewayProcess, services: GuardServices, name: str) -> None:
    assert said(ask(f"{name}-in", "good")) == "good", services.wrong
    got = ask(f"{name}-in", "bad")
    assert (got.status, got.body, got.get("x-guard")) == (451, b"not here", "cloud")
    if name in MASKS:
        assert said(ask(f"{name}-in", "so blue")) == f"so {MASKS[name]}"
    assert services.wrong == []


@pytest.mark.parametrize("name", MASKS)
def test_masks_are_each_messages_own(gateway: GatewayProcess, model: Upstream, name: str) -> None:
    texts = [("system", "be nice"), ("user", "a blue"), ("user", "red"), ("user", "blue sky")]
    messages = [{"role": role, "content": text} for role, text in texts]
    model.take()
    assert ask(f"{name}-in", "", messages=messages).status == 200
    sent = orjson.loads(model.take()[0].body)["messages"]
    wanted = [text.replace("blue", MASKS[name]) for _, text in texts]
    assert [one["content"] for one in sent] == wanted


@pytest.mark.parametrize("name", OF_ANSWERS)
def test_answers(gateway: GatewayProcess, services: GuardServices, name: str) -> None:
    assert said(ask(f"{name}-out", "good")) == "good"
    assert ask(f"{name}-out", "bad").status == 451
    if name in MASKS:
        assert said(ask(f"{name}-out", "so blue")) == f"so {MASKS[name]}"
    assert services.wrong == []


@pytest.mark.parametrize("name", OF_ANSWERS)
def test_streams(gateway: GatewayProcess, name: str) -> None:
    text = f"{LONG}blue {LONG}"
    got = ask(f"{name}-out", text, stream=True)
    assert streamed(got) == text.replace("blue", MASKS.get(name, "blue"))
    assert got.body.endswith(b"data: [DONE]\n\n")
    got = ask(f"{name}-out", f"{LONG}the bad {LONG}", stream=True)
    error = last_error(got)
    assert (error["type"], error["message"]) == ("guardrail_blocked", "not here")
    assert "bad" not in streamed(got)
    got = ask(f"{name}-out", f"{LONG}and crash {LONG}", stream=True)
    assert "could not judge" in str(last_error(got)["message"])
    assert "crash" not in streamed(got)


@pytest.mark.parametrize("name", SERVICES)
@pytest.mark.parametrize("fault", ["crash", "garbage"])
def test_failures_are_closed(gateway: GatewayProcess, name: str, fault: str) -> None:
    got = ask(f"{name}-in", fault)
    assert got.status == 503
    assert "a prompt guard could not judge" in got.text
    assert said(ask(f"{name}-open", fault)) == fault
    if name in OF_ANSWERS:
        assert ask(f"{name}-out", fault).status == 503


def test_a_busy_service_is_asked_again(gateway: GatewayProcess, services: GuardServices) -> None:
    services.take()
    # Twice 429, then an answer; then twice again.
    assert said(ask("bedrock-in", "busy")) == "busy"
    assert said(ask("bedrock-in", "busy blue")) == "busy {NAME}"
    assert len(services.take()) == 6
    # Three times a failure.
    assert ask("moderation-in", "crash").status == 503
    assert len(services.take()) == 3
    # It would be too late.
    assert ask("moderation-in", "later").status == 503
    assert said(ask("moderation-open", "later")) == "later"
    assert len(services.take()) == 2
    assert services.wrong == []


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_that_does_not_answer(gateway: GatewayProcess, name: str) -> None:
    assert ask(f"{name}-hasty", "hang").status == 503


def test_jailbreaks_are_found_in_any_piece(
    gateway: GatewayProcess, services: GuardServices
) -> None:
    services.take()
    assert ask("azure-key-in", "x" * 11_990 + " jail" + "x" * 1000).status == 451
    seen = [one.target.partition("?")[0] for one in services.take()]
    assert seen.count("/contentsafety/text:analyze") == 2
    assert seen.count("/contentsafety/text:detectJailbreak") > 12
    assert ask("azure-key-in", "x" * 200_000).status == 503
    assert services.wrong == []


@pytest.mark.parametrize(
    ("route", "text", "action"),
    [
        ("bedrock-in", "good", "Allow"),
        ("bedrock-in", "blue", "Mask"),
        ("bedrock-in", "bad", "Reject"),
        ("bedrock-open", "crash", "FailOpen"),
    ],
)
def test_judgements_are_counted(
    gateway: GatewayProcess, route: str, text: str, action: str
) -> None:
    name, labels = "agentgateway_guardrail_checks_total", {"phase": "Request", "action": action}
    # A judgement is counted before the answer that follows from it.
    before = gateway.metric(name, **labels)
    ask(route, text)
    gateway.wait_metric(name, before + 1, **labels)


def test_the_example(model: Upstream, services: GuardServices) -> None:
    path = Path(__file__).resolve().parents[2] / "deploy/examples/llm-guards-clouds.yaml"
    config = yaml.safe_load(path.read_text())
    guards = config["llm"]["policies"]["guardrails"]
    guards["request"][1]["openAIModeration"]["hostOverride"] = services.address
    guards["response"][0]["bedrockGuardrails"]["hostOverride"] = services.address
    config["llm"]["models"][0]["params"]["baseUrl"] = f"http://{model.address}/v1"
    environment = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "GUARDRAIL_ID": "gr-1",
        "LLM_PORT": str(EXAMPLE),
        "OPENAI_API_KEY": TOKEN,
    }

    def chat(text: str, **more: Any) -> Got:
        body = {"model": "m", "messages": [{"role": "user", "content": text}], **more}
        headers = {"content-type": "application/json"}
        target = "/v1/chat/completions"
        return fetch(EXAMPLE, target, "POST", headers=headers, body=orjson.dumps(body))

    with GatewayProcess(config, env=environment):
        assert said(chat("a@b.example is blue")) == "<EMAIL_ADDRESS> is {NAME}"
        assert streamed(chat("the blue one", stream=True)) == "the {NAME} one"
        refused = chat("bad")
        assert (refused.status, orjson.loads(refused.body)["error"]["type"]) == (400, "moderation")
    assert services.wrong == []


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown backend": (
        {"request": [{"webhook": {"target": {"backend": "nobody"}}}]},
        "request[0].webhook.target.backend: unknown backend nobody",
    ),
    "a scope that the guard does not see": (
        {"request": [{**service("armor", "h:1"), "scope": ["toolOutput"]}]},
        "request[0].scope: a guard of this kind sees systemPrompt and messages",
    ),
    "answers for jailbreaks": (
        {"response": [{"azureContentSafety": {"endpoint": "h", "detectJailbreak": {}}}]},
        "response[0].azureContentSafety.detectJailbreak: answers are not looked at",
    ),
    "a place that is none": (
        {"request": [{"openAIModeration": {"hostOverride": "https://h/path"}}]},
        "request[0].openAIModeration.hostOverride: ",
    ),
    "half a credential": (
        {
            "request": [
                {
                    "bedrockGuardrails": {
                        "guardrailIdentifier": "g",
                        "guardrailVersion": "1",
                        "region": "us-east-1",
                        "policies": {"backendAuth": {"aws": {"accessKeyId": "a"}}},
                    }
                }
            ]
        },
        "request[0].bedrockGuardrails.policies.backendAuth.aws: ",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_honoured_is_refused(name: str, tmp_path: Path) -> None:
    guard, wanted = REFUSED[name]
    ai = {"name": "m", "provider": {"openAI": {}}, "policies": {"ai": {"promptGuard": guard}}}
    path = tmp_path / "config.yaml"
    listener = {"routes": [{"backends": [{"ai": ai}]}]}
    path.write_bytes(orjson.dumps({"binds": [{"port": PORT, "listeners": [listener]}]}))
    ended = run_until_exit(path)
    assert ended.returncode != 0
    assert f"backends[0].ai.policies.ai.promptGuard.{wanted}" in ended.stderr + ended.stdout
