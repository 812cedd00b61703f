"""The gateway's own certificate in the mesh, as the snapshot has it.

Source: spec istio section 1.2.

The key goes to the workers in the snapshot's shared memory, which only this user can read; what
`/config_dump` shows of it is redacted.
"""

from __future__ import annotations

from cryptography import x509

from sidecar.config.certificates import certificates, pair_problem
from sidecar.config.run import Node, Run
from sidecar.config.scalars import shown_path
from sidecar.config.snapshot import Json
from sidecar.errors import ConfigError

OWN = "own"
"""Name of the `identity` resource that is the gateway's own."""
REVOKED = "revoked"
"""Name of the one with the revocation lists."""


def identity(data: Node, run: Run) -> None:
    """`config.istio.certificate`, its files read: a changed file is a changed resource."""
    config: Node = data.get("config") or {}
    files: Node | None = (config.get("istio") or {}).get("certificate")
    if files is None:
        return
    path = "config.istio.certificate"
    texts = {name: run.file_text(files[name], f"{path}.{name}") for name in _FILES}
    chain, key, roots = (texts[name] for name in _FILES)
    if chain is None or key is None or roots is None:
        return
    found = pair_problem(chain, key)
    if found is not None:
        name, message = found
        name = "chain" if name == "cert" else name
        run.problem(f"{path}.{name}", f"{files[name]}: {message}")
    elif not is_workload(chain):
        run.problem(f"{path}.chain", f"{files['chain']}: has no SPIFFE name")
    try:
        certificates(roots)
    except ConfigError as error:
        run.problem(f"{path}.roots", f"{files['roots']}: {error.message}")
    run.make("identity", OWN, resource(chain, key, roots), path)


def revocations(config: Node, run: Run) -> None:
    """`config.istio.revocations`, its file read; `config`: with the environment applied. Who signed
    the lists is checked where the roots are known."""
    file = (config.get("istio") or {}).get("revocations")
    if file is None:
        return
    path = "config.istio.revocations"
    text = run.file_text(file, path)
    if text is None:
        return
    parts = text.split(_LIST)[1:]
    try:
        for part in parts:
            x509.load_pem_x509_crl((_LIST + part).encode())
    except ValueError:
        parts = []
    if not parts:
        run.problem(path, f"{shown_path(file)}: holds no PEM revocation list")
    run.make("identity", REVOKED, {"lists": text}, path)


def check_tunnels(config: Node, run: Run) -> None:
    """`config.hbone`: what HTTP/2 can express. `config`: with the environment applied."""
    hbone = config.get("hbone") or {}
    for key, (low, high) in _SIZES.items():
        value = hbone.get(key)
        if value is not None and not low <= value <= high:
            run.problem(f"config.hbone.{key}", f"{value} is not between {low} and {high}")
    if hbone["windowSize"] > hbone["connectionWindowSize"]:
        run.problem("config.hbone.windowSize", "is above connectionWindowSize")


_SIZES = {
    "windowSize": (1, 2**31 - 1),
    "connectionWindowSize": (65_535, 2**31 - 1),
    "frameSize": (2**14, 2**24 - 1),
    "poolMaxStreamsPerConn": (1, 65_535),
}
"""RFC 9113 section 6.5.2; a connection's window begins at 65,535 and can only grow."""
_LIST = "-----BEGIN X509 CRL-----"
_FILES = ("chain", "key", "roots")


def resource(chain: str, key: str, roots: str) -> Json:
    """The data of the `identity` resource, PEM texts."""
    return {"chain": chain, "key": key, "roots": roots}


def is_workload(chain: str) -> bool:
    """Whether the first certificate of a PEM text has a `spiffe://` name."""
    leaf = certificates(chain)[0]
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return False
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    return any(uri.startswith("spiffe://") for uri in uris)
