"""Which format a provider is addressed in, and what converts to it.

A provider's formats are a set: the order of the table alone decides. It is the reference's, and
then the two pairs that it lacks, which therefore change nothing where it finds a way.

Source: spec llm section 2.1.
"""

from __future__ import annotations

from collections.abc import Set
from typing import Final

from sidecar.errors import RequestError
from sidecar.llm.convert import (
    completions_to_converse,
    completions_to_gemini,
    completions_to_messages,
    completions_to_responses,
    messages_to_completions,
    messages_to_converse,
    messages_to_responses,
    responses_to_completions,
    responses_to_converse,
    responses_to_messages,
)
from sidecar.llm.convert.base import Conversion

_TABLE: Final[tuple[tuple[str, str, Conversion | None], ...]] = (
    ("responses", "responses", None),
    ("generateContent", "generateContent", None),
    # Google's own format before its imitation of OpenAI's, which can do less.
    ("completions", "generateContent", completions_to_gemini.CONVERSION),
    ("completions", "completions", None),
    ("messages", "messages", None),
    ("completions", "messages", completions_to_messages.CONVERSION),
    ("completions", "converse", completions_to_converse.CONVERSION),
    ("messages", "completions", messages_to_completions.CONVERSION),
    ("messages", "responses", messages_to_responses.CONVERSION),
    ("messages", "converse", messages_to_converse.CONVERSION),
    ("responses", "completions", responses_to_completions.CONVERSION),
    ("responses", "converse", responses_to_converse.CONVERSION),
    # Ours. Claude behind its own API for clients of responses:
    ("responses", "messages", responses_to_messages.CONVERSION),
    # Models that OpenAI and Copilot offer through responses alone, for everybody else's clients:
    ("completions", "responses", completions_to_responses.CONVERSION),
)
CHOICES: Final[dict[str, tuple[tuple[str, Conversion | None], ...]]] = {
    client: tuple((upstream, found) for source, upstream, found in _TABLE if source == client)
    for client in ("completions", "messages", "responses", "generateContent")
}
"""Client format → `[(upstream format, conversion)]`, the preferred one first."""


def select(client_format: str, provider_formats: Set[str]) -> tuple[str, Conversion | None]:
    """`(upstream format, conversion)`; no conversion where the formats are the same.

    Formats without a pair (embeddings, token counts, …) are only ever passed as they are.

    Raises: RequestError 400 when the provider cannot be reached from this format.
    """
    choices = CHOICES.get(client_format) or ((client_format, None),)
    for upstream, conversion in choices:
        if upstream in provider_formats:
            return upstream, conversion
    known = ", ".join(sorted(provider_formats)) or "none"
    raise RequestError(
        400,
        "InvalidRequest",
        f"unsupported conversion: {client_format} to a provider that speaks {known}",
    )
