"""What an endpoint picker's answer means, one end in the test.

Source: spec/config.md section 3.11; spec/k8s.md section 4.2.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from sidecar.errors import ConfigError, RequestError, UpstreamError
from sidecar.http.message import Request
from sidecar.policies._pb import ext_proc_pb2 as pb
from sidecar.policies.inference_routing import Destination, choice, destination, note_served
from sidecar.policies.order import build, make
from tests.support.callouts import Service
from tests.support.ext_proc import head
from tests.support.messages import request, response, services

HEADER = "x-gateway-destination-endpoint"
PICKER = {"endpointPicker": {"host": "p.test:9002"}}


def picker(*answers: Any) -> Service:
    """Each stream begins with the next of the answers to a request's head; one may be raised."""
    made = Service()
    left = list(answers)

    async def script(messages: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        answer = left.pop(0)
        async for message in messages:
            if pb.ProcessingRequest.FromString(message).HasField("request_headers"):
                if isinstance(answer, Exception):
                    raise answer
                yield answer.SerializeToString()

    made.script = script
    return made


def chosen(*values: str) -> pb.ProcessingResponse:
    return head("request_headers", [(HEADER, value) for value in values])


def policy(service: Service, **config: Any) -> Any:
    given = {**PICKER, **config}
    return make("inferenceRouting", given, replace(services(), callouts=service))


async def ask(service: Service, asked: Request, **config: Any) -> tuple[Destination, ...]:
    assert await policy(service, **config).on_request(asked) is None
    return choice(asked)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("10.0.0.1:80", ("10.0.0.1", 80)),
        (" 10.0.0.1:65535 ", ("10.0.0.1", 65535)),
        ("[FE00:0:0:0:0:0:0:1]:8000", ("fe00::1", 8000)),
        ("[10.0.0.1]:80", None),
        ("fe00::1:80", None),
        ("[fe80::1%eth0]:80", None),
        ("model.test:80", None),
        ("10.0.0.1", None),
        ("10.0.0.1:", None),
        ("10.0.0.1:0", None),
        ("10.0.0.1:65536", None),
        ("10.0.0.1:000080", None),
        ("10.0.0.1:٨٠", None),
        ("010.0.0.1:80", None),
        ("", None),
    ],
)
def test_destination(text: str, wanted: Destination | None) -> None:
    assert destination(text) == wanted


@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("10.0.0.1:80", (("10.0.0.1", 80),)),
        ("10.0.0.2:80, 10.0.0.1:80,10.0.0.2:80", (("10.0.0.2", 80), ("10.0.0.1", 80))),
        (",".join(["10.0.0.1:80"] * 16), (("10.0.0.1", 80),)),
    ],
)
async def test_choices(said: str, wanted: tuple[Destination, ...]) -> None:
    assert await ask(picker(chosen(said)), request()) == wanted


@pytest.mark.parametrize(
    "said",
    ["10.0.0.1", "10.0.0.1:80,", ",".join(["10.0.0.1:80"] * 17), "10.0.0.1:80" + " " * 2000 + ","],
)
@pytest.mark.parametrize("mode", ["failClosed", "failOpen"])
async def test_what_cannot_be_read(said: str, mode: str) -> None:
    with pytest.raises(RequestError) as caught:
        await ask(picker(chosen(said)), request(), failureMode=mode)
    assert (caught.value.status, caught.value.code) == (500, "ExtProc")


async def test_no_choice() -> None:
    down = UpstreamError(503, "UpstreamFailure", "connection reset")
    for answer in (head("request_headers"), down):
        with pytest.raises(RequestError, match="ext_proc failed: "):
            await ask(picker(answer), request())
        assert await ask(picker(answer), request(), failureMode="failOpen") == ()


async def test_each_attempt_asks_anew() -> None:
    asked = request("GET", "/", {HEADER: "10.0.0.9:80"})
    service = picker(chosen("10.0.0.1:80"), head("request_headers"))
    made = policy(service, failureMode="failOpen")
    await made.on_request(asked)
    assert choice(asked) == (("10.0.0.1", 80),)
    await made.on_request(asked)
    assert choice(asked) == ()
    sent = [pb.ProcessingRequest.FromString(one.sent[0]) for one in service.streams]
    shown = [{f.key for f in one.request_headers.headers.headers} for one in sent]
    assert all(HEADER not in names for names in shown)


async def test_only_what_an_endpoint_said_is_shown() -> None:
    service = picker(chosen("10.0.0.1:80"))
    made, asked = policy(service), request()
    await made.on_request(asked)
    note_served(asked, "10.0.0.1:80")
    own = response(503)
    own.reason = "Internal"
    await made.on_response(asked, own)
    assert len(service.streams[0].sent) == 1


def test_it_runs_first_and_before_credentials() -> None:
    rules = {"rules": ["true"]}
    chain = build("backend", {"authorization": rules, "inferenceRouting": PICKER}, services())
    first = chain.request_hooks[0][0]
    assert type(getattr(first, "__self__", None)).__name__ == "InferenceRouting"
    assert chain.judges == 2


@pytest.mark.parametrize(
    ("config", "path"),
    [
        ({}, "inferenceRouting.endpointPicker"),
        ({"endpointPicker": {}}, "inferenceRouting.endpointPicker"),
        ({**PICKER, "destinationMode": "any"}, "inferenceRouting.destinationMode"),
        ({**PICKER, "failureMode": "open"}, "inferenceRouting.failureMode"),
    ],
)
def test_what_is_refused(config: dict[str, Any], path: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make("inferenceRouting", config, services())
    assert caught.value.path == path
