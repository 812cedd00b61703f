"""The request that goes to a provider: the client's headers, the provider's place, the credential.

Source: spec/llm.md sections 0 (step 13), 1.2 and 1.5; spec/config.md section 3.2.

1. The client's fields, without those of its coding, and without its credentials where the provider
   has one of its own: a key for the gateway is nobody else's business.
2. What the provider demands, then the credential, moved to where the provider wants keys.
3. The provider's own policies, which have the last word.
4. Signatures, which cover all of it.
"""

from __future__ import annotations

from sidecar.errors import SidecarError
from sidecar.gateway.exchange import Exchange
from sidecar.gateway.hooks import run_own
from sidecar.gateway.llm_call import Member, Prepared
from sidecar.gateway.llm_choice import Ranks
from sidecar.gateway.llm_head import CREDENTIALS, GONE, GONE_WITH_KEYS, JSON_FIELD, OWN
from sidecar.gateway.llm_load import UnderWay
from sidecar.gateway.plan import Attempt, Backend, Route
from sidecar.http.headers import Headers
from sidecar.http.message import Body, FixedBody, Request, Response
from sidecar.llm.credentials.base import Credential, Outgoing
from sidecar.llm.providers.base import Target
from sidecar.net.pool import field_lines, request_line


async def outgoing_of(
    member: Member, target: Target, body: bytes, request: Request, route: Route
) -> Request:
    """The request as it is sent, with a JSON body. Raises: SidecarError."""
    made = head_of(member, target, request, route, FixedBody(body))
    made.headers.remove_any(OWN)
    made.headers.set(*JSON_FIELD)
    made.method = "POST"
    await finish(member, target, made, body, request)
    return made


def head_at_once(call: Prepared, request: Request, route: Route) -> bytes | None:
    """The head of the same without the provider's policies; None when a credential has to be
    fetched first. Raises: UpstreamError."""
    # Fast path: all but the client's fields is known.
    if call.head is not None and route.rewrites_host:
        return call.head.with_fields(request.headers)
    made = _outgoing_at_once(call, call.backend, request, route)
    if made is None:
        return None
    return request_line(made.method, made.target, made.authority) + field_lines(made.headers)


def _outgoing_at_once(
    call: Prepared, backend: Backend, request: Request, route: Route
) -> Outgoing | None:
    member, target = call.member, call.target
    gone = GONE_WITH_KEYS if member.credentials else GONE
    headers = Headers([field for field in request.headers if field[0] not in gone])
    headers.append(JSON_FIELD)
    if target.headers_remove:
        headers.remove_any(target.headers_remove)
    for name, value in target.headers_set:
        headers.set(name, value)
    authority = _authority(backend, request, route) or backend.default_authority
    path = target.path.decode("latin-1")
    made = Outgoing("POST", backend.scheme, authority, path, headers, call.body, request)
    explicit, last = False, False
    for credential in member.credentials:
        if credential.is_last:
            last = True
            continue
        explicit = explicit or credential.explicit_place
        if not credential.apply_nowait(made):
            return None
    if not explicit:
        target.key_place.move(headers)
    if last:
        covering = (credential for credential in member.credentials if credential.is_last)
        if not all(credential.apply_nowait(made) for credential in covering):
            return None
    return made


def head_of(member: Member, target: Target, request: Request, route: Route, body: Body) -> Request:
    """The client's request, sent to the provider's place."""
    backend = member.backends[target.authority]
    headers = request.headers.copy()
    if member.credentials:
        headers.remove_any(CREDENTIALS)
    if target.headers_remove:
        headers.remove_any(target.headers_remove)
    for name, value in target.headers_set:
        headers.set(name, value)
    made = Request(
        request.method,
        backend.scheme,
        _authority(backend, request, route),
        target.path.decode("latin-1"),
        # A plain-text provider gets HTTP/1.1, whatever the client speaks; with TLS, ALPN decides.
        "HTTP/1.1",
        headers,
        body,
        request.connection,
        request.started_ns,
    )
    made.state = request.state
    made.trace = request.trace
    made.route = request.route
    made.on_informational = request.on_informational
    return made


def _authority(backend: Backend, request: Request, route: Route) -> str:
    """The provider's host, unless the route rewrites it itself."""
    if not route.rewrites_host:
        return request.authority
    return backend.auto_host or backend.default_authority


async def finish(
    member: Member, target: Target, request: Request, body: bytes, client: Request
) -> None:
    """Credentials and the provider's policies. `client`: the request that `request` was made of.

    Raises: SidecarError.
    """
    explicit = False
    for credential in member.credentials:
        if not credential.is_last:
            explicit = explicit or credential.explicit_place
            await _apply(credential, request, body, client)
    if not explicit:
        target.key_place.move(request.headers)
    await run_own(member.chain, request, member.name)
    for credential in member.credentials:
        if credential.is_last:
            await _apply(credential, request, body, client)


async def _apply(credential: Credential, request: Request, body: bytes, client: Request) -> None:
    sent = Outgoing(
        request.method,
        request.scheme,
        request.authority,
        request.target,
        request.headers,
        body,
        client,
    )
    if not credential.apply_nowait(sent):
        await credential.apply(sent)
    request.target = sent.target


async def sent(
    ranks: Ranks,
    under_way: UnderWay,
    member: Member,
    target: Target,
    made: Request,
    exchange: Exchange,
    route: Route,
    attempt: Attempt,
) -> Response:
    """The head of the provider's answer; the outcome counts for later choices.

    The call stays under way until whoever has the answer says that it is not. Raises: SidecarError.
    """
    clock = exchange.worker.clock.monotonic_ns
    response: Response | None = None
    failure: SidecarError | None = None
    started = clock()
    under_way.begin(member.endpoint.state)
    try:
        response = await attempt(
            made, exchange, route, member.backends[target.authority], made.body
        )
        return response
    except SidecarError as error:
        failure = error
        raise
    finally:
        if response is None:
            under_way.end()
        ranks.record(member, (clock() - started) / 1e9, response, failure)
