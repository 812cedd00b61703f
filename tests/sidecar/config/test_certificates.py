"""TLS settings: files become texts, and what cannot work is found when the file is loaded."""

from __future__ import annotations

import pytest
import yaml

from sidecar.config.certificates import CIPHER_SUITES
from sidecar.config.normalise import normalise
from sidecar.config.run import FILE_LIMIT_BYTES, read_path
from sidecar.errors import ConfigError
from tests.support.certificates import make_pair

PAIR = make_pair("a.test")
OTHER = make_pair("b.test")
LOCKED = make_pair("c.test", password=b"secret")
FILES = {
    "cert.pem": PAIR.cert,
    "key.pem": PAIR.key,
    "other.key": OTHER.key,
    "locked.pem": LOCKED.cert,
    "locked.key": LOCKED.key,
    "text": "no certificate",
}


def read_file(path: str) -> bytes:
    if path == "binary":
        return b"\xff\xfe"
    if path not in FILES:
        raise FileNotFoundError(2, "No such file or directory", path)
    return FILES[path].encode()


def problems_of(text: str) -> list[str]:
    problems: list[ConfigError] = []
    normalise(yaml.safe_load(text), problems, read_file=read_file, env={})
    return [str(problem) for problem in problems]


ROUTE = "gateways: {default: {port: 80}}\nroutes: [%s]"
TLS = "binds: [{port: 80, listeners: [{protocol: HTTPS, routes: [], tls: %s}]}]"
AT_TLS = "binds[0].listeners[0].tls"
AGENT = "config: {spiffe: {endpoint: 'unix:///run/agent.sock'}}\n"
BACKEND = "backends: [{name: b, host: a.test:443, policies: {backendTLS: %s}}]"
AT_BACKEND = "backends[0].policies.backendTLS"

CASES: dict[str, tuple[str, list[str]]] = {
    "tls without files": (
        TLS % "{}",
        [
            f"{AT_TLS}: tls requires 'cert' (or 'spiffe')",
            f"{AT_TLS}: tls requires 'key' (or 'spiffe')",
        ],
    ),
    "tls files that are not there": (
        TLS % "{cert: none.pem, key: binary}",
        [
            f"{AT_TLS}.cert: cannot read `none.pem`: No such file or directory",
            f"{AT_TLS}.key: cannot read `binary`: the file is not UTF-8 text",
        ],
    ),
    "key in the place of its path": (
        TLS % '{cert: cert.pem, key: "-----BEGIN PRIVATE KEY-----\\nMIGHAgEA"}',
        [f"{AT_TLS}.key: cannot read `-----BEGIN …`: No such file or directory"],
    ),
    "no certificate": (
        TLS % "{cert: text, key: key.pem}",
        [f"{AT_TLS}.cert: text: does not hold a valid PEM certificate"],
    ),
    "no key": (
        TLS % "{cert: cert.pem, key: text}",
        [f"{AT_TLS}.key: text: does not hold a valid PEM private key"],
    ),
    "key of another certificate": (
        TLS % "{cert: cert.pem, key: other.key}",
        [f"{AT_TLS}.key: other.key: the private key does not belong to the certificate"],
    ),
    "encrypted key": (
        TLS % "{cert: locked.pem, key: locked.key}",
        [f"{AT_TLS}.key: locked.key: the private key is encrypted"],
    ),
    "root that is none": (
        TLS % "{cert: cert.pem, key: key.pem, root: text}",
        [f"{AT_TLS}.root: text: does not hold a valid PEM certificate"],
    ),
    "root with a dynamic CA": (
        TLS % "{mode: dynamicCa, cert: cert.pem, key: key.pem, root: cert.pem}",
        [f"{AT_TLS}: tls.root is not supported with tls.mode=dynamicCa"],
    ),
    "spiffe with all else": (
        TLS % "{spiffe: {}, mode: dynamicCa, cert: cert.pem, cipherSuites: []}",
        [
            f"{AT_TLS}: 'spiffe' is mutually exclusive with 'cert'/'key'/'root'",
            f"{AT_TLS}: 'spiffe' cannot be combined with tls.mode",
            f"{AT_TLS}: 'spiffe' cannot be combined with tls cipherSuites/minTLSVersion/"
            "maxTLSVersion/keyExchangeGroups",
            f"{AT_TLS}.spiffe: SPIFFE needs config.spiffe.endpoint",
        ],
    ),
    "spiffe without an endpoint": (
        "config: {spiffe: {}}\n" + TLS % "{spiffe: {}}",
        [f"{AT_TLS}.spiffe: SPIFFE needs config.spiffe.endpoint"],
    ),
    "spiffe": (AGENT + TLS % "{spiffe: {}}", []),
    "spiffe with an endpoint that is none": (
        "config: {spiffe: {endpoint: agent.sock}}",
        ["config.spiffe.endpoint: invalid value: unix:///path or tcp://ip:port"],
    ),
    "spiffe to a backend": (
        AGENT + BACKEND % '{spiffe: {}, subjectAltNames: ["spiffe://td/a"], hostname: a.test}',
        [],
    ),
    "spiffe to a backend without an endpoint": (
        BACKEND % "{spiffe: {}}",
        [f"{AT_BACKEND}.spiffe: SPIFFE needs config.spiffe.endpoint"],
    ),
    "spiffe and files to a backend": (
        AGENT + BACKEND % "{spiffe: {}, cert: cert.pem, key: key.pem}",
        [
            f"{AT_BACKEND}: 'spiffe' is mutually exclusive with"
            " 'cert'/'key'/'root'/insecure/insecureHost"
        ],
    ),
    "spiffe to any backend": (
        AGENT + BACKEND % "{spiffe: {}, insecureHost: true}",
        [f"{AT_BACKEND}: 'spiffe' is mutually exclusive with"],
    ),
    "versions and suites": (
        TLS % "{cert: cert.pem, key: key.pem, minTLSVersion: TLS_V1_0, maxTLSVersion: TLS_V1_3,"
        " cipherSuites: [X]}",
        [
            f"{AT_TLS}: TLS_V1_0 is not supported: only TLS 1.2 and 1.3 are",
            f"{AT_TLS}.cipherSuites[0]: unknown cipher suite `X`",
        ],
    ),
    "versions the wrong way round": (
        TLS % "{cert: cert.pem, key: key.pem, minTLSVersion: TLS_V1_3, maxTLSVersion: TLS_V1_2}",
        [f"{AT_TLS}: the lowest TLS version TLS_V1_3 is above the highest, TLS_V1_2"],
    ),
    "half a client certificate": (
        ROUTE % "{policies: {backendTLS: {cert: cert.pem}}}",
        ["routes[0].policies.backendTLS: a client certificate needs both 'cert' and 'key'"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_problems(name: str) -> None:
    text, expected = CASES[name]
    found = problems_of(text)
    assert len(found) == len(expected), found
    for one, wanted in zip(found, expected, strict=True):
        assert wanted in one


@pytest.mark.parametrize("name", sorted(CIPHER_SUITES))
def test_every_cipher_suite_has_its_name(name: str) -> None:
    tls = f"{{cert: cert.pem, key: key.pem, cipherSuites: [{name}]}}"
    assert problems_of(TLS % tls) == []
    assert CIPHER_SUITES[name] == name.replace("TLS13_", "TLS_")


def test_the_content_of_a_file_is_not_shown() -> None:
    FILES["secret"] = "hunter2"
    found = problems_of(TLS % "{cert: secret, key: secret, root: secret}")
    assert len(found) == 2
    assert "hunter2" not in str(found)


def test_files_are_bounded(tmp_path: object) -> None:
    path = f"{tmp_path}/large"
    with open(path, "wb") as file:
        file.truncate(FILE_LIMIT_BYTES + 1)
    with pytest.raises(OSError, match="larger"):
        read_path(path)
    with open(path, "wb") as file:
        file.write(b"text")
    assert read_path(path) == b"text"
