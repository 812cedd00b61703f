"""Anthropic's beta features that Bedrock knows: others make it refuse the whole request.

Source: Amazon Bedrock user guide (Anthropic Claude messages, `anthropic_beta`); spec llm section
2.9.
"""

from __future__ import annotations

from typing import Final

from sidecar.llm.convert.base import Context, Json
from sidecar.llm.shape import to_list, to_text

KNOWN: Final = frozenset(
    (
        "computer-use-2025-01-24",
        "context-1m-2025-08-07",
        "context-management-2025-06-27",
        "dev-full-thinking-2025-05-14",
        "effort-2025-11-24",
        "interleaved-thinking-2025-05-14",
        "output-128k-2025-02-19",
        "token-efficient-tools-2025-02-19",
        "tool-examples-2025-10-29",
        "tool-search-tool-2025-10-19",
    )
)
SETTING: Final = "anthropicBetas"
"""Of `Context.settings`: names to allow instead, where `default` stands for the known ones."""
HEADER: Final = "anthropic-beta"
_KEY: Final = "anthropic_beta"


def allowed(names: str) -> frozenset[str]:
    """The names of a comma-separated list, as an operator writes it in
    `AGENTGATEWAY_BEDROCK_ANTHROPIC_BETA_HEADERS`."""
    listed = {name.strip().lower() for name in names.split(",")} - {""}
    return frozenset(listed - {"default"}) | (KNOWN if "default" in listed else frozenset())


def betas_of(body: Json, context: Context) -> list[str]:
    """What the client asks for, in header or body, as far as Bedrock knows it; the rest is told.

    Raises: ShapeError.
    """
    asked = context.headers.get(HEADER, "").split(",")
    asked += [to_text(beta, "anthropic_beta") for beta in to_list(body.get(_KEY), _KEY)]
    known = context.settings.get(SETTING, KNOWN)
    out: list[str] = []
    for beta in dict.fromkeys(name.strip() for name in asked):
        if beta.lower() in known:
            out.append(beta)
        elif beta:
            context.drop(f"{HEADER} {beta}")
    return out
