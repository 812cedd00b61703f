"""Policies of one phase, ready to run: tuples of hooks, and the policies that act elsewhere.

Source: spec/config.md section 3.2.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from sidecar.policies.buffer import Buffer
    from sidecar.policies.request_mirror import RequestMirror
    from sidecar.policies.retry import Retry
    from sidecar.policies.timeout import Timeout
    from sidecar.policies.url_rewrite import UrlRewrite

Hook = tuple[Callable[..., Any], bool]
"""`(callable, is_async)`; a request hook takes the request, a response hook both messages."""


@final
@dataclass(frozen=True, slots=True)
class Chain:
    """Hooks in the order they run. All fields are fixed when the configuration is compiled."""

    request_hooks: tuple[Hook, ...] = ()
    """`hook(request) -> Response | None`: the first Response answers the client."""
    response_hooks: tuple[Hook, ...] = ()
    """`hook(request, response) -> None`, of this phase alone; see `order.response_hooks`."""
    needs_request_body: bool = False
    """The request's body is held whole before the first hook runs."""
    needs_response_body: bool = False
    """The response's body is held whole before the first response hook runs."""
    timeout: Timeout | None = None
    """Bounds that the pipeline keeps; no hooks."""
    retry: Retry | None = None
    """Decisions for the attempt loop. Its precondition is among the request hooks."""
    mirror: RequestMirror | None = None
    """Sampling and copy; the pipeline sends."""
    buffer: Buffer | None = None
    """For inspection: its hooks are among the others."""
    rewrite: UrlRewrite | None = None
    """What is left of the authority rewrite; its hook is among the others."""
    responses: Mapping[str, Hook] = field(default_factory=dict)
    """Policy key → response hook, from which the phases' hooks are interleaved."""
    is_guard: bool = False
    """Each policy is a guard (see base.Policy): it lets a request pass or refuses it, at once."""
    guards: tuple[Callable[..., Any], ...] = ()
    """Of a chain of guards: their hooks for the direct way."""
    judges: int = 0
    """How many of the request hooks, the first ones, judge the request: in the backend phase its
    credentials come behind them, and before what changes it."""


EMPTY = Chain()
"""The one chain of every route without policies."""


def hook_of(policy: object, name: str) -> Hook | None:
    """The policy's hook of this name; None when it lacks it or has switched it off."""
    hook = getattr(policy, name, None)
    return None if hook is None else (hook, inspect.iscoroutinefunction(hook))
