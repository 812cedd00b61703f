"""Holds what is spent, in USD or tokens, within budgets that all workers share.

Source: spec/llm.md section 4.5. As a policy of traffic, with `key`, `estimate` and `cost`, it is
our own; version 1.5 has budgets on API keys (sidecar.policies.api_key).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, RootModel

from sidecar.policies.allowances import Budget
from sidecar.policies.base import PolicyKind, Services
from sidecar.policies.schema import ROOT
from sidecar.policies.spending import MAX_BUDGETS, Spending


class Config(RootModel[Annotated[list[Budget], Field(min_length=1, max_length=MAX_BUDGETS)]]):
    """1 to 16 budgets, all of which must have something left."""

    model_config = ROOT


def _made(config: Config, services: Services) -> Spending:
    return Spending(config.root, services)


KIND = PolicyKind("budgets", Config, _made)
