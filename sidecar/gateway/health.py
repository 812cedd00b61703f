"""A `health` policy made ready: what ejects endpoints, and what counts as a failure.

Source: spec/config.md sections 3.11 and 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sidecar.errors import RequestError
from sidecar.http.headers import Headers
from sidecar.http.message import Connection, FixedBody, Request, Response
from sidecar.policies.base import Services
from sidecar.policies.expressions import Expression
from sidecar.routing.outlier import Eviction, Outcome, Outliers, is_unhealthy

Data = Mapping[str, Any]
_NO_REQUEST = Request("", "", "", "/", "", Headers(), FixedBody(), Connection("", 0, "", 0), 0)
"""An outcome is judged by its response; the expression's request is empty."""


def outliers_of(health: Data | None, services: Services) -> Outliers:
    """Of a `health` policy; None: the defaults, without ejection. Raises: ConfigError."""
    if health is None:
        return Outliers()
    eviction = health.get("eviction")
    made = None if eviction is None else Eviction.from_policy(eviction, "health.eviction")
    source = health.get("unhealthyExpression")
    if source is None:
        return Outliers(made)
    expression = Expression(source, services, "unhealthyExpression", with_response=True)

    def unhealthy(outcome: Outcome) -> bool:
        if outcome.status is None:
            return is_unhealthy(outcome)
        try:
            return expression.truth(_NO_REQUEST, Response(outcome.status, outcome.headers))
        except RequestError:
            return False

    return Outliers(made, unhealthy)
