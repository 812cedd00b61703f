"""Who may connect to whom, and ask for what: Istio's authorization policies."""

from istio.authz.compiled import Stage
from istio.authz.facts import Connection, Request
from istio.authz.policies import Decision, Policies, Subject, check

__all__ = ["Connection", "Decision", "Policies", "Request", "Stage", "Subject", "check"]
