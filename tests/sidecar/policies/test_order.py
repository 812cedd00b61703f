"""The order of hooks in each phase and over the phases of a response, and what a chain tells."""

from __future__ import annotations

import inspect

import pytest

from sidecar.errors import ConfigError
from sidecar.policies.chain import EMPTY, Chain
from sidecar.policies.order import (
    HOOKLESS,
    KINDS,
    REQUEST_ORDER,
    RESERVED,
    RESPONSE_ORDER,
    build,
    response_hooks,
)
from tests.support.messages import services

RULES = {"rules": ["request.method == 'GET'"]}
BOTH = {"request": {"add": {"x": "'1'"}}, "response": {"add": {"x": "'1'"}}}
ROUTE = {
    # In no particular order: the chain's order is not the configuration's.
    "directResponse": {"status": 200},
    "delay": {"duration": "1s"},
    "requestRedirect": {},
    "urlRewrite": {"authority": "none"},
    "responseHeaderModifier": {},
    "requestHeaderModifier": {},
    "transformations": BOTH,
    "buffer": {"request": {}, "response": {}},
    "retry": {"codes": [503], "precondition": "true"},
    "authorization": RULES,
    "cors": {},
    "timeout": {"requestTimeout": "1s"},
    "requestMirror": {"backend": {"host": "m:80"}, "percentage": 1},
}


def owners(hooks) -> list[str]:
    return [type(hook.__self__).__name__ for hook, _ in hooks]


def chain(phase, payloads) -> Chain:
    return build(phase, payloads, services())


def test_route_phase():
    made = chain("route", ROUTE)
    assert owners(made.request_hooks) == [
        "Cors",
        "Authorization",
        "Retry",
        "Buffer",
        "Transformations",
        "RequestHeaderModifier",
        "UrlRewrite",
        "RequestRedirect",
        "Delay",
        "DirectResponse",
    ]
    assert owners(made.response_hooks) == [
        "ResponseHeaderModifier",
        "Buffer",
        "Transformations",
        "Cors",
    ]
    assert all(
        is_async is inspect.iscoroutinefunction(hook) for hook, is_async in made.request_hooks
    )
    assert [
        name
        for name, hook in zip(owners(made.request_hooks), made.request_hooks, strict=True)
        if hook[1]
    ] == ["Buffer", "Delay"]


def test_what_acts_elsewhere_is_at_hand():
    made = chain("route", ROUTE)
    assert made.timeout is not None
    assert made.timeout.request_seconds == 1
    assert made.retry is not None
    assert made.mirror is not None
    assert made.buffer is not None
    assert made.rewrite is not None
    assert made.rewrite.authority_mode == "none"


def test_gateway_and_backend_phases():
    gateway = chain("gateway", {"transformations": BOTH, "authorization": RULES, "cors": {}})
    assert owners(gateway.request_hooks) == ["Cors", "Authorization", "Transformations"]
    backend = chain(
        "backend",
        {
            "requestRedirect": {},
            "requestHeaderModifier": {},
            "transformations": BOTH,
            "authorization": RULES,
            "backendTLS": {},
            "http": {"version": "HTTP/2"},
            "tcp": {},
            "health": {},
        },
    )
    assert owners(backend.request_hooks) == [
        "Authorization",
        "Transformations",
        "RequestHeaderModifier",
        "RequestRedirect",
    ]


def test_responses_pass_the_phases_interleaved():
    gateway = chain("gateway", {"cors": {}, "transformations": BOTH})
    route = chain(
        "route",
        {k: ROUTE[k] for k in ("cors", "buffer", "transformations")}
        | {"responseHeaderModifier": {}},
    )
    backend = chain("backend", {"responseHeaderModifier": {}, "transformations": BOTH})
    hooks = response_hooks(gateway, route, backend)
    expected = [
        route.responses["responseHeaderModifier"],
        backend.responses["responseHeaderModifier"],
        route.responses["buffer"],
        route.responses["transformations"],
        backend.responses["transformations"],
        gateway.responses["transformations"],
        route.responses["cors"],
        gateway.responses["cors"],
    ]
    assert list(hooks) == expected
    assert response_hooks() == ()


@pytest.mark.parametrize("phase", ["gateway", "route", "backend"])
def test_no_policies_cost_nothing(phase):
    assert chain(phase, {}) is EMPTY
    assert chain(phase, {"cors": None, "http": {}}) is EMPTY
    assert EMPTY.request_hooks == EMPTY.response_hooks == ()


def test_hooks_that_do_not_exist_are_not_called():
    made = chain("route", {"retry": {"codes": [503]}, "timeout": {}})
    assert made.request_hooks == made.response_hooks == ()
    assert made.retry is not None


BODIES = {
    "none": ({"authorization": RULES}, False, False),
    "47 rule on the body": ({"authorization": {"rules": ["request.body == b''"]}}, True, False),
    "response body": ({"transformations": {"response": {"body": "response.body"}}}, False, True),
    "retry asks by itself": (
        {"retry": {"codes": [], "condition": "response.body == b''"}},
        False,
        False,
    ),
}


@pytest.mark.parametrize(
    ("payloads", "request_body", "response_body"), BODIES.values(), ids=BODIES.keys()
)
def test_bodies(payloads, request_body, response_body):
    made = chain("route", payloads)
    assert (made.needs_request_body, made.needs_response_body) == (request_body, response_body)


REFUSED = {
    "not built": ("route", {"nonsense": {}}, "nonsense", "not supported yet"),
    "not in this phase": ("gateway", {"retry": {"codes": []}}, "retry", "gateway phase"),
    "backend phase": ("backend", {"cors": {}}, "cors", "backend phase"),
    "conditional on a backend": (
        "backend",
        {"transformations": {"conditional": [{"request": {}}]}},
        "transformations",
        "conditional transformations are not supported on backend-targeted policies",
    ),
    "problem inside": ("route", {"cors": {"allowOrigin": []}}, "cors.allowOrigin", "unknown field"),
}


@pytest.mark.parametrize(
    ("phase", "payloads", "path", "text"), REFUSED.values(), ids=REFUSED.keys()
)
def test_refused(phase, payloads, path, text):
    with pytest.raises(ConfigError) as caught:
        chain(phase, payloads)
    assert caught.value.path == path
    assert text in caught.value.message


def test_every_kind_has_its_place():
    placed = {key for keys in REQUEST_ORDER.values() for key in keys}
    placed |= {key for keys in HOOKLESS.values() for key in keys}
    assert placed == KINDS.keys() - {"networkAuthorization", "networkExtAuthz"} | {RESERVED}
    for phase, key in RESPONSE_ORDER:
        assert key in REQUEST_ORDER[phase] or key in HOOKLESS[phase]
