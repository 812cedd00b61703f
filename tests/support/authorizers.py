"""The policy `extAuthz`, asking services that answer in the test."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from sidecar.errors import RequestError, UpstreamError
from sidecar.http.message import FixedBody, Request, Response
from sidecar.policies._pb import ext_authz_pb2 as pb
from sidecar.policies.order import make
from tests.support.callouts import Service
from tests.support.ext_authz import Answer
from tests.support.messages import response, services

DOWN = UpstreamError(503, "UpstreamFailure", "connection refused")
GRPC = {"host": "a:1"}


def by_http(**http: Any) -> dict[str, Any]:
    return {"host": "a:1", "protocol": {"http": http}}


class Grpc(Service):
    """A service of Envoy's protocol that always gives one answer."""

    def __init__(self, answer: Answer | Exception | None = None) -> None:
        super().__init__(unary=self._answer)
        self.answer = answer or Answer()

    def _answer(self, message: bytes) -> bytes:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer.encoded()

    @property
    def asked(self) -> list[Any]:
        return [pb.CheckRequest.FromString(one).attributes for one in self.messages]


class Plain(Service):
    """A plain service that always gives one answer."""

    def __init__(self, answer: Response | Exception | None = None) -> None:
        super().__init__(http=self._answer)
        self.answer = answer or response(200)

    def _answer(self, asked: Request) -> Response:
        if isinstance(self.answer, Exception):
            raise self.answer
        body = self.answer.body
        assert isinstance(body, FixedBody)
        return Response(self.answer.status, self.answer.headers.copy(), body.copy())


def policy(payload: dict[str, Any], service: Service, **more: Any) -> Any:
    return make("extAuthz", payload, replace(services(**more), callouts=service))


async def ask(
    payload: dict[str, Any], made: Request, service: Service, **more: Any
) -> Response | None:
    answer = await policy(payload, service, **more).on_request(made)
    assert answer is None or isinstance(answer, Response)
    return answer


async def refusal(payload: dict[str, Any], made: Request, service: Service) -> RequestError:
    with pytest.raises(RequestError) as caught:
        await ask(payload, made, service)
    assert caught.value.code == "ExtAuth"
    return caught.value


# --- the cache ----------------------------------------------------------------------------------


def cached(payload: dict[str, Any], ttl: str = "duration('10s')", **more: Any) -> dict[str, Any]:
    return {**payload, "cache": {"key": ["request.headers['x-key']"], "ttl": ttl, **more}}
