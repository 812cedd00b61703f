"""Token counts for Anthropic's clients where the provider cannot count: ours are estimates.

Source: spec/llm.md sections 1.1 and 2.1.
"""

from __future__ import annotations

import asyncio

import orjson

from sidecar.gateway.llm_call import ClientCall, Member
from sidecar.gateway.llm_facts import Record
from sidecar.http.headers import Headers
from sidecar.http.message import FixedBody, Response
from sidecar.llm.tokens import count_messages_request
from sidecar.llm.usage import Usage


async def counted(client: ClientCall, member: Member, record: Record) -> Response:
    """The answer of the gateway itself."""
    model = member.model_for(client.model)
    # The first count of a process loads the tokenizer, which takes most of a second.
    count = await asyncio.to_thread(count_messages_request, client.take_body(), model)
    record.begin(
        provider=member.provider.name,
        model=model,
        operation="chat",
        is_streaming=False,
        params={},
        excludes_cache=False,
    )
    record.note(Usage(count_tokens=count))
    headers = Headers(((b"content-type", b"application/json"),))
    body = orjson.dumps({"input_tokens": count})
    return Response(200, headers, FixedBody(body), reason="DirectResponse")
