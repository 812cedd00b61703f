"""A kept upstream connection that dies under a request: the request is served all the same."""

from __future__ import annotations

import http.client
import socket
import threading

from tests.support.gateway import GatewayProcess, free_ports

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


def _serve(server: socket.socket) -> None:
    """Answer a connection's first request and end it, without an answer, at its second."""
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            if connection.recv(65536):
                connection.sendall(ANSWER)
                connection.recv(65536)


def test_the_route_is_chosen_by_the_clients_name_again() -> None:
    """The first try put the backend's name in the place of the client's, and no route has that."""
    [port] = free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_serve, args=(server,))
        thread.start()
        route = {
            "hostnames": ["a.test"],
            "backends": [{"host": f"localhost:{server.getsockname()[1]}"}],
        }
        config = {
            "config": {"dns": {"lookupFamily": "V4Only"}},
            "binds": [{"port": port, "listeners": [{"routes": [route]}]}],
        }
        with GatewayProcess(config) as gateway:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            statuses = []
            for _ in range(6):
                client.request("GET", "/", headers={"Host": "a.test"})
                answer = client.getresponse()
                statuses.append((answer.status, answer.read()))
            client.close()
            assert statuses == [(200, b"ok")] * 6, gateway.log()
        server.shutdown(socket.SHUT_RDWR)
        thread.join(20)


def test_a_request_that_is_sent_again_is_counted_once() -> None:
    [port] = free_ports(1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=_serve, args=(server,))
        thread.start()
        bucket = {"maxTokens": 6, "tokensPerFill": 1, "fillInterval": "1h"}
        route = {
            "policies": {"localRateLimit": [bucket]},
            "backends": [{"host": f"127.0.0.1:{server.getsockname()[1]}"}],
        }
        config = {"binds": [{"port": port, "listeners": [{"routes": [route]}]}]}
        with GatewayProcess(config) as gateway:
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
            left = []
            for _ in range(7):
                client.request("GET", "/")
                answer = client.getresponse()
                answer.read()
                left.append((answer.status, answer.headers["x-ratelimit-remaining"]))
            client.close()
            expected = [(200, str(number)) for number in range(5, -1, -1)]
            assert left == [*expected, (429, "0")], gateway.log()
        server.shutdown(socket.SHUT_RDWR)
        thread.join(20)
