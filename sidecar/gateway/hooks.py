"""Running the hooks of a chain over one request or its response, bodies held where they ask for it.

Source: spec/config.md section 3.2.
"""

from __future__ import annotations

from sidecar.errors import ClientDisconnected, RequestError, SidecarError, UpstreamError
from sidecar.gateway.plan import After
from sidecar.gateway.respond import error_response
from sidecar.http.message import FixedBody, Request, Response, read_up_to
from sidecar.policies.chain import Chain


async def run_request(chain: Chain, request: Request, limit_bytes: int) -> Response | None:
    """Run the request hooks of a chain until one answers. Raises SidecarError."""
    if chain.needs_request_body:
        await hold_request(request, limit_bytes)
    for hook, is_async in chain.request_hooks:
        answer = hook(request)
        if is_async:
            answer = await answer
        if answer is not None:
            assert isinstance(answer, Response)
            return answer
        if chain.needs_request_body and type(request.body) is not FixedBody:
            # A processor has put another one in its place.
            await hold_request(request, limit_bytes)
    return None


async def run_own(chain: Chain, request: Request, label: str) -> None:
    """Run a destination's own request hooks, of which none may answer.

    `label`: whose they are. Raises: SidecarError.
    """
    for hook, is_async in chain.request_hooks:
        answer = hook(request)
        if is_async:
            answer = await answer
        if answer is not None:
            text = f"a policy of {label} answered in its place"
            raise UpstreamError(503, "UpstreamFailure", text, sent=False)


async def run_response(
    after: After, request: Request, response: Response, limit_bytes: int
) -> Response:
    """Run response hooks; what fails there replaces the response."""
    if not after.hooks:
        return response
    try:
        if after.needs_body and response.tunnel is None:
            await hold_response(response, limit_bytes)
        for hook, is_async in after.hooks:
            answer = hook(request, response)
            if is_async:
                await answer
            is_held = type(response.body) is FixedBody or response.tunnel is not None
            if after.needs_body and not is_held:
                # As above, for what reads it later.
                await hold_response(response, limit_bytes)
    except ClientDisconnected:
        raise
    except SidecarError as error:
        response.body.close()
        return error_response(request, error)
    return response


async def hold_request(request: Request, limit_bytes: int) -> None:
    """Make the request's body a FixedBody. Raises RequestError 413: too large is a refusal."""
    body = request.body
    if request.upgrade:
        return
    # The limit holds for what is at hand already, else the packets' sizes would decide.
    if type(body) is FixedBody and (body.length or 0) <= limit_bytes:
        return
    whole, rest = await read_up_to(body, limit_bytes)
    if rest is not None:
        raise RequestError(413, "InvalidRequest", "request body too large", close=True)
    request.body = FixedBody(whole, body.trailers)


async def hold_response(response: Response, limit_bytes: int) -> None:
    """Make the response's body a FixedBody. Raises UpstreamError 502 past the limit."""
    body = response.body
    if type(body) is FixedBody and (body.length or 0) <= limit_bytes:
        return
    whole, rest = await read_up_to(body, limit_bytes)
    if rest is not None:
        rest.close()
        raise UpstreamError(502, "UpstreamFailure", "response body too large")
    response.body = FixedBody(whole, body.trailers)
