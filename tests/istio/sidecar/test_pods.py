"""Pods with a sidecar each and nothing else between them, as network namespaces on a switch."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from istio.sidecar.ways import Mode, Refused, Way
from tests.hbone.aio.mesh import settle
from tests.hbone.pki import Pki, spiffe
from tests.istio.sidecar.judges import TableJudge, by_tunnel
from tests.istio.sidecar.side import Side, side
from tests.support.namespaces import Node, Pod, node, reason_against

REASON = reason_against()
pytestmark = pytest.mark.skipif(bool(REASON), reason=REASON)
PKI = Pki()
A, B = spiffe("a"), spiffe("b")
PORT = 8080
SECRET = b"what nobody on the wire may read"
ANSWER = b"and this neither"


@dataclass
class Net:
    """`a` and `b` have sidecars, `c` has none."""

    node: Node
    a: Pod
    b: Pod
    c: Pod
    from_a: TableJudge
    to_b: TableJudge
    side_a: Side
    side_b: Side


@pytest.fixture(scope="module")
def net() -> Iterator[Net]:
    with node() as made:
        a, b, c = (made.pod(name) for name in "abc")
        a.redirect()
        b.redirect()
        ways: dict[tuple[str, int], Way | Refused] = {
            (address, PORT): by_tunnel(address, PORT, [B]) for address in (b.address, b.address6)
        }
        from_a, to_b = TableJudge(ways), TableJudge()
        with (
            side(a, from_a, PKI.credentials(A)) as side_a,
            side(b, to_b, PKI.credentials(B), mode=Mode.PERMISSIVE) as side_b,
        ):
            yield Net(made, a, b, c, from_a, to_b, side_a, side_b)


@pytest.fixture(autouse=True)
def nobody_denied(net: Net) -> Iterator[None]:
    yield
    net.to_b.denied.clear()


def receive(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size and (part := sock.recv(size - len(data))):
        data += part
    return data


def exchange(client: socket.socket, listener: socket.socket) -> str:
    """Both say something and end; gives what address the application saw."""
    with client, listener.accept()[0] as server:
        server.settimeout(20)
        seen = str(server.getpeername()[0])
        client.sendall(SECRET)
        client.shutdown(socket.SHUT_WR)
        assert receive(server, 1000) == SECRET  # to the end: half close one way
        server.sendall(ANSWER)
        server.shutdown(socket.SHUT_WR)
        assert receive(client, 1000) == ANSWER
    return seen


def is_cut(client: socket.socket) -> bool:
    """Whether it ends without a word."""
    try:
        return client.recv(100) == b""
    except ConnectionResetError:
        return True


def leads_nowhere(pod: Pod, host: str, port: int, says: bytes = b"") -> bool:
    """Whether a connection is made and cut; at once or after it said something."""
    try:
        with pod.connect(host, port) as client:
            client.sendall(says)
            return is_cut(client)
    except (ConnectionResetError, BrokenPipeError):
        return True


@pytest.mark.parametrize("family", ["address", "address6"])
def test_from_sidecar_to_sidecar_nothing_is_in_plaintext(net: Net, family: str) -> None:
    address = getattr(net.b, family)
    with net.b.listen(PORT, address) as listener, net.node.sniffed() as sniffer:
        client = net.a.connect(address, PORT)
        assert client.getpeername()[:2] == (address, PORT)
        assert exchange(client, listener) == address  # the sidecar is the pod's own
        seen = sniffer.close()
    assert (15008).to_bytes(2, "big") in seen
    assert SECRET not in seen
    assert ANSWER not in seen
    arrival = net.to_b.arrivals[-1]
    assert str(arrival.identity) == A
    assert arrival.remote[0] == getattr(net.a, family)


def test_what_is_not_of_the_mesh_is_called_as_it_is(net: Net) -> None:
    with net.c.listen(PORT) as listener, net.node.sniffed() as sniffer:
        exchange(net.a.connect(net.c.address, PORT), listener)
        assert SECRET in sniffer.close()


@pytest.mark.parametrize("family", ["address", "address6"])
def test_plaintext_of_others_in_permissive_mode(net: Net, family: str) -> None:
    address = getattr(net.b, family)
    with net.b.listen(PORT, address) as listener:
        exchange(net.c.connect(address, PORT), listener)
    arrival = net.to_b.arrivals[-1]
    assert arrival.identity is None
    assert arrival.local == (address, PORT)
    assert arrival.remote[0] == getattr(net.c, family)


def test_plaintext_of_others_in_strict_mode(net: Net) -> None:
    strict = net.node.pod("strict")
    strict.redirect()
    judge = TableJudge()
    with (
        side(strict, judge, PKI.credentials(spiffe("strict"))) as its,
        strict.listen(PORT) as listener,
    ):
        assert leads_nowhere(net.c, strict.address, PORT)
        assert its.settled("plaintext", "DENY") == 1
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()  # the application never saw it
        listener.settimeout(20)
        net.from_a.ways[strict.address, PORT] = by_tunnel(strict.address, PORT, [spiffe("strict")])
        exchange(net.a.connect(strict.address, PORT), listener)
    assert [arrival.identity is None for arrival in judge.arrivals] == [False]


def test_whom_a_policy_denies(net: Net) -> None:
    net.to_b.denied.add(A)
    with net.b.listen(PORT) as listener:
        assert leads_nowhere(net.a, net.b.address, PORT)
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
    net.to_b.denied.add("")
    with net.b.listen(PORT):
        assert leads_nowhere(net.c, net.b.address, PORT)


@pytest.mark.parametrize("who", ["a", "c"])
def test_a_change_of_policy_ends_what_lives(net: Net, who: str) -> None:
    with net.b.listen(PORT) as listener, getattr(net, who).connect(net.b.address, PORT) as client:
        server, _ = listener.accept()
        with server:
            server.settimeout(20)
            client.sendall(SECRET)
            assert receive(server, len(SECRET)) == SECRET
            net.to_b.denied.add(A if who == "a" else "")
            assert net.side_b.do(net.side_b.capture.recheck) == 1
            assert is_cut(client)
            with pytest.raises(ConnectionResetError):
                server.recv(100)  # cut, not ended
    assert net.side_b.settled("inbound" if who == "a" else "plaintext", "DENY")


def test_someone_else_than_expected_gets_nothing(net: Net) -> None:
    net.from_a.ways[net.b.address, 9999] = by_tunnel(net.b.address, 9999, [spiffe("other")])
    with net.b.listen(9999) as listener, net.node.sniffed() as sniffer:
        assert leads_nowhere(net.a, net.b.address, 9999, SECRET)
        listener.settimeout(0)
        with pytest.raises(BlockingIOError):
            listener.accept()
        assert SECRET not in sniffer.close()
    assert net.side_a.settled("outbound", "IDENTITY_ERROR")


def test_nobody_listens_behind_the_tunnel(net: Net) -> None:
    assert leads_nowhere(net.a, net.b.address, PORT)


@pytest.mark.parametrize("port", [15001, 15006, 15008])
@pytest.mark.parametrize("who", ["a", "b", "c"])
@pytest.mark.parametrize("host", ["address", "address6", "127.0.0.1"])
def test_the_sidecars_own_ports_lead_nowhere(net: Net, port: int, who: str, host: str) -> None:
    address = getattr(net.b, host, host)
    before = len(net.to_b.arrivals)
    try:
        assert leads_nowhere(getattr(net, who), address, port, b"GET / HTTP/1.1\r\n\r\n")
    except ConnectionRefusedError:
        assert (who, host) == ("c", "127.0.0.1")
    assert len(net.to_b.arrivals) - before <= 1  # and no round and round


def test_without_a_certificate_there_is_no_way_but_no_plaintext_either(net: Net) -> None:
    young = net.node.pod("young")
    young.redirect()
    judge = TableJudge(dict(net.from_a.ways))
    with (
        side(young, judge, None) as its,
        net.b.listen(PORT),
        net.node.sniffed() as sniffer,
    ):
        assert leads_nowhere(young, net.b.address, PORT, SECRET)
        assert its.settled("outbound", "IDENTITY_ERROR") == 1
        with pytest.raises(ConnectionRefusedError):
            net.c.connect(young.address, 15008)
        its.do(lambda: its.capture.set_credentials(PKI.credentials(A)))
        assert SECRET not in sniffer.close()
    # Where the sidecar is gone nothing leaves, and nothing comes in.
    with net.b.listen(PORT), pytest.raises(ConnectionRefusedError):
        young.connect(net.b.address, PORT)
    with young.listen(PORT), pytest.raises(ConnectionRefusedError):
        net.c.connect(young.address, PORT)


def test_the_application_may_see_the_clients_address(net: Net) -> None:
    kind = net.node.pod("kind")
    kind.redirect(PRESERVE_SOURCE="true")
    judge = TableJudge()
    with (
        side(
            kind,
            judge,
            PKI.credentials(spiffe("kind")),
            preserve_source=True,
            mode=Mode.PERMISSIVE,
        ),
    ):
        for family in ("address", "address6"):
            address = getattr(kind, family)
            net.from_a.ways[address, PORT] = by_tunnel(address, PORT, [spiffe("kind")])
            with kind.listen(PORT, address) as listener:
                assert exchange(net.a.connect(address, PORT), listener) == getattr(net.a, family)
                assert exchange(net.c.connect(address, PORT), listener) == getattr(net.c, family)


@pytest.mark.skipif(
    shutil.which("setpriv") is None or shutil.which("curl") is None, reason="needs setpriv, curl"
)
def test_the_sidecars_user_in_place_of_a_mark(net: Net) -> None:
    plain = net.node.pod("plain")
    plain.redirect(PACKET_MARK="0", SIDECAR_UID="0")
    judge = TableJudge({(net.b.address, PORT): by_tunnel(net.b.address, PORT, [B])})
    as_application = ("setpriv", "--reuid=65534", "--clear-groups")
    command = ("curl", "-sS", "--max-time", "20", f"http://{net.b.address}:{PORT}/x")
    with (
        side(plain, judge, PKI.credentials(spiffe("plain")), packet_mark=0),
        net.b.listen(PORT) as listener,
        subprocess.Popen(
            (*plain.launcher, *as_application, *command), stdout=subprocess.PIPE
        ) as curl,
    ):
        server, _ = listener.accept()
        with server:
            assert server.recv(1000).startswith(b"GET /x HTTP/1.1\r\n")
            server.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi")
            assert curl.communicate(timeout=20)[0] == b"hi"
    assert str(net.to_b.arrivals[-1].identity) == spiffe("plain")


@pytest.mark.parametrize("mark", [0, 7])
def test_rules_that_redirect_the_sidecar_itself_are_found_out(net: Net, mark: int) -> None:
    round_about = net.node.pod(f"round{mark}")
    round_about.do("ip", "route", "add", "default", "dev", "eth0")
    round_about.redirect(PACKET_MARK="0", SIDECAR_UID="12345")
    with (
        side(round_about, TableJudge(), PKI.credentials(A), packet_mark=mark) as its,
        net.c.listen(PORT),
    ):
        assert its.settled("outbound", "LOOP")  # its own trial
        its.do(lambda: settle(lambda: its.capture._is_looping))
        assert leads_nowhere(round_about, net.c.address, PORT, SECRET)
        assert its.capture.counts.ended["outbound", "LOOP"] < 5


def test_redirecting_twice_is_redirecting_once_and_clean_leaves_nothing(net: Net) -> None:
    pod = net.node.pod("rules")
    tables = [
        (program, "-t", table, "-S")
        for program in ("iptables", "ip6tables")
        for table in ("nat", "mangle")
    ]

    def rules() -> list[str]:
        return [pod.do(*command) for command in tables] + [pod.do("ip", "rule")]

    empty = rules()
    options = {"PRESERVE_SOURCE": "true", "EXCLUDE_OUTBOUND_CIDRS": "10.1.0.0/16,fd01::/16"}
    pod.redirect(**options)
    once = rules()
    assert "-d 10.1.0.0/16 -j RETURN" in once[0]
    assert "-d fd01::/16 -j RETURN" in once[2]
    pod.redirect(**options)
    assert rules() == once
    pod.redirect()  # and what it does not say any more is gone
    assert "10.1.0.0" not in rules()[0]
    pod.redirect("clean")
    pod.redirect("clean")
    # Empty chains of the tables' own may appear; nothing of ours is left.
    assert "AGW" not in "".join(rules())
    assert rules()[-1] == empty[-1]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"OUTBOUND_PORT": "x"}, "expected a port, not 'x'"),
        ({"EXCLUDE_INBOUND_PORTS": "80,;"}, "expected a port, not ';'"),
        ({"PACKET_MARK": "0"}, "SIDECAR_UID must say whose traffic"),
        ({"PACKET_MARK": "mark"}, "PACKET_MARK: expected a number"),
        ({"PACKET_MARK": "0", "SIDECAR_UID": "me"}, "SIDECAR_UID: expected a number"),
        ({"PRESERVE_SOURCE": "yes"}, "PRESERVE_SOURCE: expected true or false"),
        ({"IPTABLES": "no-such-program"}, "no-such-program is not installed"),
        ({"EXCLUDE_OUTBOUND_CIDRS": "300.0.0.0/8"}, "the rules were refused"),
    ],
)
def test_rules_that_cannot_be_made_fail(net: Net, options: dict[str, str], said: str) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        net.c.redirect(**options)
    assert said in failure.value.stderr
    assert "-j REDIRECT" not in net.c.do("iptables", "-t", "nat", "-S")


def test_ports_that_are_reached_without_the_sidecar(net: Net) -> None:
    probed = net.node.pod("probed")
    probed.redirect(EXCLUDE_INBOUND_PORTS="15021", EXCLUDE_OUTBOUND_PORTS="8081")
    with probed.listen(15021) as listener:
        exchange(net.c.connect(probed.address, 15021), listener)
    with net.c.listen(8081) as listener:
        exchange(probed.connect(net.c.address, 8081), listener)
