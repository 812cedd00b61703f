"""Watching files: real files and links, real notices, and silence where nothing has changed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from sidecar.gateway import reload
from sidecar.gateway.reload import FileWatcher, watched_directories
from sidecar.gateway.stamps import CHANGED, Stamp, Stamps

PATIENCE_SECONDS = 20.0
NextChange = Callable[[], Coroutine[Any, Any, frozenset[Path]]]


def loaded(*paths: Path) -> Mapping[Path, Stamp]:
    """As of a load that read these files now."""
    stamps = Stamps()
    for path in paths:
        stamps.note(path)
    return stamps.settled()


@asynccontextmanager
async def watching(watcher: FileWatcher) -> AsyncIterator[NextChange]:
    """A function that awaits the next set of changed files."""
    changes = watcher.changes()

    async def next_change() -> frozenset[Path]:
        return await asyncio.wait_for(anext(changes), PATIENCE_SECONDS)

    try:
        yield next_change
    finally:
        await changes.aclose()  # type: ignore[attr-defined]


def replace_atomically(path: Path, text: str) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(text)
    fresh.replace(path)


def mount(volume: Path, version: str, files: dict[str, str]) -> None:
    """Write a volume as the kubelet does: a new directory, then `..data` renamed over the old."""
    directory = volume / f"..{version}"
    directory.mkdir()
    for name, text in files.items():
        (directory / name).write_text(text)
    link = volume / "..data_tmp"
    link.symlink_to(directory.name)
    link.replace(volume / "..data")
    for name in files:
        if not (volume / name).is_symlink():
            (volume / name).symlink_to(f"..data/{name}")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda p: p.write_text("two"), id="written-in-place"),
        pytest.param(lambda p: replace_atomically(p, "two"), id="renamed-over"),
        pytest.param(lambda p: p.unlink(), id="removed"),
        pytest.param(lambda p: (p.unlink(), p.mkdir()), id="became-a-directory"),
    ],
)
async def test_a_change_is_told(tmp_path: Path, change: Callable[[Path], object]) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("one")
    async with watching(FileWatcher(loaded(path))) as next_change:
        change(path)
        assert await next_change() == {path}


async def test_a_missing_file_may_come(tmp_path: Path) -> None:
    path = tmp_path / "late" / "deep" / "gateway.yaml"
    async with watching(FileWatcher(loaded(path))) as next_change:
        path.parent.mkdir(parents=True)
        path.write_text("one")
        assert await next_change() == {path}
        path.write_text("two")
        assert await next_change() == {path}


async def test_a_touch_says_nothing(tmp_path: Path) -> None:
    touched, changed = tmp_path / "touched", tmp_path / "changed"
    for path in (touched, changed):
        path.write_text("one")
    async with watching(FileWatcher(loaded(touched, changed))) as next_change:
        os.utime(touched)
        replace_atomically(touched, "one")
        changed.write_text("two")
        assert await next_change() == {changed}


async def test_a_change_before_the_iteration_is_told(tmp_path: Path) -> None:
    path = tmp_path / "gateway.yaml"
    path.write_text("one")
    watcher = FileWatcher(loaded(path))
    path.write_text("two")
    async with watching(watcher) as next_change:
        assert await next_change() == {path}


async def test_what_is_again_what_it_was(tmp_path: Path) -> None:
    """A policy that comes and goes: somebody who saw neither happen may have read it all the same.

    The watcher's last look was before it came, the load was in between.
    """
    path = tmp_path / "policy.yaml"
    path.write_text("one")
    watcher = FileWatcher(loaded(path))
    async with watching(watcher) as next_change:
        path.write_text("two")
        read = loaded(path)
        replace_atomically(path, "one")
        watcher.replace(read)
        assert await next_change() == {path}


async def test_a_load_while_somebody_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the look has seen before it is older than what the load says."""
    path = tmp_path / "policy.yaml"
    path.write_text("one")
    watcher = FileWatcher(loaded(path))
    loop, see_all = asyncio.get_running_loop(), reload._see_all
    looks = 0

    def see_all_and_load(known: Any, *, is_noticed: bool) -> Any:
        nonlocal looks
        looks += 1
        seen = see_all(known, is_noticed=is_noticed)
        if looks == 1:
            replace_atomically(path, "two")
            read = loaded(path)
            replace_atomically(path, "one")
            loop.call_soon_threadsafe(watcher.replace, read)
        return seen

    monkeypatch.setattr(reload, "_see_all", see_all_and_load)
    async with watching(watcher) as next_change:
        assert await next_change() == {path}


async def test_what_changed_while_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("one")
    stamps = Stamps()
    stamps.note(path)
    replace_atomically(path, "two")
    assert stamps.settled() == {path: CHANGED}
    watcher = FileWatcher(loaded(path))
    watcher.replace(stamps.settled())
    async with watching(watcher) as next_change:
        assert await next_change() == {path}
        watcher.replace(loaded(path))
        (tmp_path / "other").write_text("one")
        watcher.extend(loaded(tmp_path / "other"))
        (tmp_path / "other").write_text("two")
        assert await next_change() == {tmp_path / "other"}
        path.write_text("three")
        assert await next_change() == {path}


async def test_kubernetes_swaps_a_mounted_volume(tmp_path: Path) -> None:
    mount(tmp_path, "1", {"a.yaml": "one", "b.yaml": "same"})
    paths = [tmp_path / "a.yaml", tmp_path / "b.yaml"]
    async with watching(FileWatcher(loaded(*paths))) as next_change:
        for version in ("2", "3", "4"):
            mount(tmp_path, version, {"a.yaml": version, "b.yaml": "same"})
            assert await next_change() == {paths[0]}


async def test_a_file_behind_links_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "file"
    target.write_text("one")
    (tmp_path / "way").symlink_to(tmp_path / "real")
    path = tmp_path / "link"
    path.symlink_to("way/file")
    async with watching(FileWatcher(loaded(path))) as next_change:
        target.write_text("two")
        assert await next_change() == {path}
        (tmp_path / "other").write_text("three")
        (tmp_path / "next").symlink_to("other")
        (tmp_path / "next").replace(path)
        assert await next_change() == {path}
        (tmp_path / "other").write_text("four")
        assert await next_change() == {path}


async def test_a_directory_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "conf" / "gateway.yaml"
    for name, text in (("conf", "one"), ("fresh", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "gateway.yaml").write_text(text)
    async with watching(FileWatcher(loaded(path))) as next_change:
        (tmp_path / "conf").rename(tmp_path / "old")
        (tmp_path / "fresh").rename(tmp_path / "conf")
        while (await next_change()) and path.read_text() != "two":
            continue
        path.write_text("three")
        assert await next_change() == {path}


async def test_other_files_after_a_reload(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "elsewhere" / "second"
    second.parent.mkdir()
    for path in (first, second):
        path.write_text("one")
    watcher = FileWatcher(loaded(first))
    async with watching(watcher) as next_change:
        first.write_text("two")
        assert await next_change() == {first}
        watcher.replace(loaded(second))
        assert watcher.paths == {second}
        first.write_text("three")
        second.write_text("two")
        assert await next_change() == {second}


async def test_replacing_while_someone_waits(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("one")
    watcher = FileWatcher({})
    async with watching(watcher) as next_change:
        waiting = asyncio.ensure_future(next_change())
        watcher.replace(loaded(path))
        path.write_text("two")
        assert await waiting == {path}


async def test_without_notices_it_is_found_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, elsewhere = tmp_path / "file", tmp_path / "elsewhere"
    path.write_text("one")
    elsewhere.mkdir()
    loop, ticked, asked = asyncio.get_running_loop(), asyncio.Event(), 0

    def watch_elsewhere(paths: object) -> frozenset[reload.Directory]:
        nonlocal asked
        asked += 1
        if asked == 2:  # once before the watch, then after each interval
            loop.call_soon_threadsafe(ticked.set)
        return frozenset({(elsewhere, 0, 0)})

    monkeypatch.setattr(reload, "LOOK_INTERVAL_MS", 100)
    monkeypatch.setattr(reload, "watched_directories", watch_elsewhere)
    async with watching(FileWatcher(loaded(path))) as next_change:
        waiting = asyncio.ensure_future(next_change())
        await asyncio.wait_for(ticked.wait(), PATIENCE_SECONDS)
        path.write_text("two")
        assert await waiting == {path}


@pytest.mark.parametrize("way", ["write_text", "atomically"])
async def test_a_notice_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    monkeypatch.setattr(reload, "LOOK_INTERVAL_MS", 3_600_000)
    path = tmp_path / "file"
    path.write_text("one")
    async with watching(FileWatcher(loaded(path))) as next_change:
        waiting = asyncio.ensure_future(next_change())
        number = 0
        while not waiting.done():  # the first may come before the watch
            number += 1
            text = "x" * number
            path.write_text(text) if way == "write_text" else replace_atomically(path, text)
            await asyncio.wait({waiting}, timeout=0.3)
        assert await waiting == {path}


async def test_a_cancelled_wait_ends_soon(tmp_path: Path) -> None:
    async with watching(FileWatcher(loaded(tmp_path / "file"))) as next_change:
        waiting = asyncio.ensure_future(next_change())
        await asyncio.to_thread((tmp_path / "other").touch)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(waiting, PATIENCE_SECONDS)


def names(tmp_path: Path, *paths: Path) -> set[str]:
    directories = {path for path, _, _ in watched_directories(paths)}
    return {
        str(path.relative_to(tmp_path)) for path in directories if path.is_relative_to(tmp_path)
    }


def test_every_directory_on_the_way_is_watched(tmp_path: Path) -> None:
    mount(tmp_path, "1", {"a.yaml": "one"})
    assert names(tmp_path, tmp_path / "a.yaml") == {".", "..1"}


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert names(tmp_path, tmp_path / "a") == {"."}
    assert FileWatcher(loaded(tmp_path / "a")).paths == {tmp_path / "a"}


def test_the_nearest_directory_stands_in_for_a_missing_one(tmp_path: Path) -> None:
    assert names(tmp_path, tmp_path / "no" / "such" / "file") == {"."}


async def test_a_directory_tells_of_files_that_come_and_go(tmp_path: Path) -> None:
    directory = tmp_path / "policies"
    directory.mkdir()
    (directory / "a.yaml").write_text("one")
    async with watching(FileWatcher(loaded(directory))) as next_change:
        (directory / "a.yaml").write_text("two")  # no business of the directory
        (directory / "b.yaml").write_text("one")
        assert await next_change() == {directory}
        (directory / "a.yaml").unlink()
        assert await next_change() == {directory}
