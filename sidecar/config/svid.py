"""The gateway's own X.509-SVID, as the snapshot has it for listeners' and backends' TLS.

Source: spec config sections 1.4, 3.11 (backendTLS) and 8.1 (spiffe.endpoint).

Like the mesh's certificate it goes to the workers in the snapshot's shared memory, which only this
user can read. `/config_dump` leaves it out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sidecar.config.run import Node, Run
from sidecar.config.snapshot import Resource

KIND: Final = "svid"
KEY: Final = "svid/own"
VARIABLE: Final = "SPIFFE_ENDPOINT_SOCKET"
NO_ENDPOINT: Final = (
    "SPIFFE needs config.spiffe.endpoint, the socket of the Workload API"
    f" (or config.spiffe: {{}} and {VARIABLE})"
)
_ENDPOINT: Final = "spiffe"


def svid_resource(
    spiffe_id: str,
    chain: str,
    key: str,
    roots: str,
    federated: Mapping[str, str],
    not_after: int,
) -> Resource:
    """PEM texts. `roots`: the bundle of its own trust domain. `federated`: by trust domain, the
    bundles of others. `not_after`: seconds since 1970."""
    return Resource.of(
        KIND,
        "own",
        {
            "spiffe_id": spiffe_id,
            "chain": chain,
            "key": key,
            "roots": roots,
            "federated": dict(federated),
            "not_after": not_after,
        },
    )


def endpoint_of(config: Node) -> str:
    """That of a `config` section with the environment applied; "" for none."""
    return str((config.get("spiffe") or {}).get("endpoint") or "")


def require_endpoint(path: str, run: Run) -> None:
    """Note a problem where nobody could give the SVID."""
    if not run.refers(_ENDPOINT, ""):
        run.problem(path, NO_ENDPOINT)


def uses_svid(data: Any) -> bool:
    """Whether a resource's data asks for the SVID anywhere (`tls.spiffe`, `backendTLS.spiffe`)."""
    waiting = [data]
    while waiting:
        one = waiting.pop()
        if isinstance(one, Mapping):
            if any(_asks(one[key]) for key in _PLACES & one.keys()):
                return True
            waiting.extend(one.values())
        elif isinstance(one, (list, tuple)):
            waiting.extend(one)
    return False


def _asks(tls: Any) -> bool:
    return isinstance(tls, Mapping) and tls.get("spiffe") is not None


_PLACES: Final = frozenset(("tls", "backendTLS", "policy"))
"""Keys under which TLS settings stand; `policy` in a policy by itself."""
