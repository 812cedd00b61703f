"""The proxies under test and the upstream behind them, each on the core that is its own.

The upstream is nginx with fixed bodies, and for events a server of ours. nginx as a proxy has one
worker, kept upstream connections, no log and no buffering to files: what the gateway does too.
"""

from __future__ import annotations

import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

from tests.bench.processes import Processes
from tests.bench.usage import LOAD_CORE, PROXY_CORE, descendants, pinned
from tests.support.certificates import make_pair
from tests.support.gateway import GatewayProcess, free_ports

ALL_SCHEMES = frozenset(("http", "https", "h2"))
SMALL = b"a fixed body of one hundred and twenty-eight octets ".ljust(128, b".")
LARGE = b"x" * 65536
HUGE_BYTES = 12 * 2**30
_START_SECONDS = 10.0

NGINX = """\
worker_processes 1; daemon off; pid {folder}/{name}.pid; error_log {folder}/{name}.log error;
events {{ worker_connections 16384; }}
http {{
  access_log off; keepalive_requests 1000000000; keepalive_timeout 600; sendfile on;
  client_body_temp_path {folder}/{name}_body; proxy_temp_path {folder}/{name}_proxy;
  fastcgi_temp_path {folder}/{name}_f; uwsgi_temp_path {folder}/{name}_u;
  scgi_temp_path {folder}/{name}_s;
  client_max_body_size 0; client_body_buffer_size 128k;
"""
_UPSTREAM = """\
  server {{
    listen 127.0.0.1:{port}; root {folder}/www; default_type text/plain;
    open_file_cache max=16;
    # nginx serves no file to POST; this answers one all the same, after reading its body.
    error_page 405 =200 $uri;
    location /route- {{ try_files /small =404; }}
    location /changed- {{ try_files /small =404; }}
  }}
}}
"""
_PROXY = """\
  upstream bodies {{ server 127.0.0.1:{bodies}; keepalive 512; keepalive_requests 1000000000; }}
  upstream events {{ server 127.0.0.1:{events}; keepalive 512; keepalive_requests 1000000000; }}
  ssl_certificate {folder}/cert.pem; ssl_certificate_key {folder}/key.pem;
  server {{
    listen 127.0.0.1:{plain}; listen 127.0.0.1:{h2} http2; listen 127.0.0.1:{tls} ssl;
    proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $http_host;
    proxy_request_buffering off; proxy_buffers 16 16k; proxy_max_temp_file_size 0;
    http2_max_concurrent_streams 256;
    location / {{ proxy_pass http://bodies; }}
    location /events {{ proxy_pass http://events; proxy_buffering off; }}
  }}
}}
"""


@dataclass(frozen=True, slots=True)
class Peer:
    """A proxy to measure. `load_pids`: whose CPU a request costs; `all_pids`: whose memory counts.

    `schemes`: what it serves by itself, of http, https and h2 (HTTP/2 in the clear). `why_absent`
    says why there is nothing to measure, "" when there is.
    """

    name: str
    plain: int = 0
    h2: int = 0
    tls: int = 0
    load_pids: tuple[int, ...] = ()
    all_pids: tuple[int, ...] = ()
    schemes: frozenset[str] = ALL_SCHEMES
    why_absent: str = ""

    def url(self, scheme: str, path: str) -> str:
        """Where a case sends its requests."""
        port = {"http": self.plain, "https": self.tls, "h2": self.h2}[scheme]
        return f"{'https' if scheme == 'https' else 'http'}://127.0.0.1:{port}{path}"


def wait_open(process: subprocess.Popen[bytes], url: str, seconds: float = _START_SECONDS) -> None:
    """Until something answers there. Raises: OSError when the process ends, or takes too long."""
    until = time.monotonic() + seconds
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            if process.poll() is not None or time.monotonic() > until:
                raise
            time.sleep(0.02)


class Stage(Processes):
    """`with Stage() as stage:` everything runs; `stage.peers` are ready for load."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies, self.events = free_ports(2)
        self.peers: list[Peer] = []

    def _start(self) -> None:
        # nginx workers drop their rights to nobody, who must get at the files.
        self.folder.chmod(0o755)
        www = self.folder / "www"
        www.mkdir()
        (www / "small").write_bytes(SMALL)
        (www / "large").write_bytes(LARGE)
        with (www / "huge").open("wb") as file:
            file.truncate(HUGE_BYTES)  # sparse: costs no disk
        pair = make_pair("localhost")
        (self.folder / "cert.pem").write_text(pair.cert)
        (self.folder / "key.pem").write_text(pair.key)
        with pinned(LOAD_CORE):
            self._nginx("upstream", _UPSTREAM, self.bodies, port=self.bodies)
            self._event_server()
        with pinned(PROXY_CORE):
            self.peers.append(self._nginx_peer())
            self.peers.append(self.gateway("native"))
            self.peers.append(self.gateway("granian"))

    def _nginx(self, name: str, text: str, ready: int, **ports: int) -> subprocess.Popen[bytes]:
        path = self.folder / f"{name}.conf"
        path.write_text((NGINX + text).format(folder=self.folder, name=name, **ports))
        process = self._spawn(["nginx", "-p", str(self.folder), "-c", str(path)])
        wait_open(process, f"http://127.0.0.1:{ready}/small")
        return process

    def _nginx_peer(self) -> Peer:
        plain, h2, tls = free_ports(3)
        ports = {"plain": plain, "h2": h2, "tls": tls}
        process = self._nginx(
            "proxy", _PROXY, plain, bodies=self.bodies, events=self.events, **ports
        )
        pids = descendants(process.pid)
        return Peer("nginx", plain, h2, tls, tuple(pids[1:]), tuple(pids))

    def _event_server(self) -> None:
        process = self._spawn([sys.executable, "-m", "tests.bench.events", str(self.events)])
        wait_open(process, f"http://127.0.0.1:{self.events}/")

    def gateway(self, door: str) -> Peer:
        """One gateway of one worker behind this front door, if there is such a one."""
        plain, tls = free_ports(2)
        process = GatewayProcess(self._config(door, plain, tls))
        try:
            process.start()
        except AssertionError:
            reason = process.log().strip().splitlines()
            process.__exit__(None, None, None)
            return Peer(door, why_absent=f"not built: {reason[0] if reason else 'no start'}")
        self._gateways.append(process)
        doors = sorted(set(process.dump()["frontDoors"].values()))
        if not any(door in one for one in doors):
            return Peer(door, why_absent=f"not built: the front doors are {doors}")
        load = [pid for worker in process.worker_pids() for pid in descendants(worker)]
        everyone = descendants(process.process.pid)
        # Beside another front door it has HTTP/2 alone.
        schemes = ALL_SCHEMES if doors == [door] else frozenset(("h2",))
        return Peer(door, plain, plain, tls, tuple(load), tuple(everyone), schemes)

    def _config(self, door: str, plain: int, tls: int) -> dict[str, Any]:
        config: dict[str, Any] = {"logging": {"level": "info,request=warn"}}
        # nginx speaks HTTP/1.1 to its upstream whatever the client speaks; so must this.
        version = {"http": {"version": "HTTP/1.1"}}
        routes = [
            {
                "matches": [{"path": {"pathPrefix": path}}],
                "backends": [{"host": f"127.0.0.1:{port}", "policies": version}],
            }
            for path, port in (("/events", self.events), ("/", self.bodies))
        ]
        binds: list[dict[str, Any]] = [{"port": plain, "listeners": [{"routes": routes}]}]
        if door == "granian":
            config["frontDoor"] = door  # it refuses HTTPS listeners
        else:
            pair = {"cert": str(self.folder / "cert.pem"), "key": str(self.folder / "key.pem")}
            secure = {"protocol": "HTTPS", "tls": pair, "routes": routes}
            binds.append({"port": tls, "listeners": [secure]})
        return {"config": config, "binds": binds}


def fetch(peer: Peer, scheme: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    """One request by a client that is not the load generator."""
    context = ssl._create_unverified_context() if scheme == "https" else None
    request = urllib.request.Request(peer.url(scheme, path), data=body)
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        return answer.status, answer.read()
