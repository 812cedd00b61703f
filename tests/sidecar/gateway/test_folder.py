"""The folder of the workers' sockets, and what is left of those of the dead."""

from __future__ import annotations

import os
import signal
import socket
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sidecar.errors import ConfigError
from sidecar.gateway.folder import Folder, sweep


@pytest.fixture
def parent(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """TMPDIR, with a path short enough for sockets wherever the tests run."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        monkeypatch.setattr(tempfile, "tempdir", path)
        yield Path(path)


def dead(parent: Path, name: str = "agw-workers-killed00") -> Path:
    """As a killed gateway leaves it: nobody holds a lock on it."""
    path = parent / name
    path.mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path / "worker-0.sock"))
    (path / "worker-0.sessions").write_bytes(b"+line\n")
    (path / "worker-11.new").touch()
    return path


def test_it_is_ours_alone_and_gone_with_the_gateway(parent: Path) -> None:
    folder = Folder.make(2)
    info = Path(folder.path).stat()
    assert (stat.S_IMODE(info.st_mode), info.st_uid) == (0o700, os.geteuid())
    assert Path(folder.path).parent == parent
    (Path(folder.path) / "worker-1.sessions").touch()
    folder.close()
    assert not list(parent.iterdir())


def test_a_start_removes_those_of_the_dead_and_leaves_the_living(parent: Path) -> None:
    living = Folder.make(1)
    left = dead(parent)
    own = Folder.make(1)
    assert not left.exists()
    assert {str(path) for path in parent.iterdir()} == {living.path, own.path}
    living.close()
    own.close()


def test_a_worker_that_outlives_its_supervisor_keeps_it(parent: Path) -> None:
    """It inherits the lock; the kernel lets go of it when that worker is killed, too."""
    folder = Folder.make(1)
    worker = os.fork()
    if not worker:
        signal.pause()
        os._exit(0)
    try:
        os.close(folder._descriptor)  # as the kernel does when the supervisor is killed
        assert sweep(str(parent)) == []
    finally:
        os.kill(worker, signal.SIGKILL)
        os.waitpid(worker, 0)
    assert sweep(str(parent)) == [folder.path]


def test_what_is_not_a_gateways_own_stays(parent: Path) -> None:
    elsewhere = dead(parent, "elsewhere")
    link = parent / "agw-workers-link0000"
    link.symlink_to(elsewhere)
    opened = dead(parent, "agw-workers-opened00")
    opened.chmod(0o755)
    filled = dead(parent, "agw-workers-filled00")
    (filled / "notes").touch()
    (parent / "agw-workers-file0000").touch()
    assert sweep(str(parent)) == []
    assert {path.name for path in parent.iterdir()} == {
        "elsewhere",
        "agw-workers-link0000",
        "agw-workers-opened00",
        "agw-workers-filled00",
        "agw-workers-file0000",
    }
    assert (elsewhere / "worker-0.sessions").exists()
    assert (opened / "worker-0.sessions").exists()
    assert (filled / "notes").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders away")
def test_what_is_another_users_stays(parent: Path) -> None:
    path = dead(parent)
    os.chown(path, 65534, 65534)
    assert sweep(str(parent)) == []
    assert (path / "worker-0.sessions").exists()


def test_a_folder_that_was_swept_before_its_lock_is_made_anew(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other gateway starts just between the folder and its lock."""
    make = tempfile.mkdtemp
    swept: list[str] = []

    def swept_at_once(prefix: str, dir: str) -> str:
        path = make(prefix=prefix, dir=dir)
        if not swept:
            swept.extend(sweep(str(parent)))
            assert swept == [path]
        return path

    monkeypatch.setattr(tempfile, "mkdtemp", swept_at_once)
    folder = Folder.make(1)
    assert Path(folder.path).is_dir()
    assert folder.path not in swept
    folder.close()


def test_a_path_that_sockets_cannot_have_is_refused(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fixed = len("/agw-workers-xxxxxxxx/worker-9.sock")
    long = parent / ("x" * (107 - fixed - 1 - len(str(parent))))
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    folder = Folder.make(10)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(os.path.join(folder.path, "worker-9.sock"))
    folder.close()
    with pytest.raises(ConfigError, match=r"TMPDIR \(.*\) is 1 bytes too long .* may have 107"):
        Folder.make(11)


def test_a_folder_that_cannot_be_made_is_told(
    parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(parent / "missing"))
    with pytest.raises(ConfigError, match="No such file or directory; set TMPDIR to one"):
        Folder.make(1)
