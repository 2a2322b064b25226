"""A bundle comes into force by itself, whole, and only a good one: however the folder came to change (A50)."""

from __future__ import annotations

import os
import queue
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from authz.bundle import Bundle, BundleSource, load_bundle
from authz.bundle.watch import Watcher, roots
from tests.bundle import reloads
from tests.bundle.folders import REFERENCE, copy, edit

FORBID = '@id("no-tools") forbid (principal, action in Action::"infer", resource) when { context.tools };\n'
PATIENCE_S = 30


class Watched:
    """A source whose folder is watched; `next` waits for what the watcher does of it."""

    def __init__(self, folder: Path, poll_s: float = 60.0) -> None:
        self._told: queue.Queue[str] = queue.Queue()
        self.source = BundleSource(folder, load_bundle, clock=lambda: 7, reloaded=self._told.put)
        self.watcher = Watcher(self.source, folder, poll_s=poll_s)

    def next(self) -> str:
        return self._told.get(timeout=PATIENCE_S)

    def quiet(self) -> bool:
        return self._told.empty()

    @property
    def digest(self) -> str:
        return self.source.current.digest


@contextmanager
def watched(folder: Path, poll_s: float = 60.0) -> Iterator[Watched]:
    """Runs until the kernel watches: a change before that would be found by the next look only."""
    watching = Watched(folder, poll_s)
    watching.watcher.start()
    try:
        yield watching
    finally:
        watching.watcher.stop()


def digest(folder: Path) -> str:
    return load_bundle(folder).digest


def test_an_editor_that_writes_in_place_or_by_renaming(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    with watched(folder, poll_s=1.0) as watching:
        edit(folder, "chatbot.cedar", "// Team chatbot", "// The team chatbot")
        assert watching.next() == "swapped"
        assert watching.digest == digest(folder)
        swap = folder / ".chatbot.cedar.swp"  # hidden: no part of a bundle
        swap.write_text((folder / "chatbot.cedar").read_text() + "// more\n")
        swap.rename(folder / "chatbot.cedar")
        assert watching.next() == "swapped"
        assert watching.digest == digest(folder)
        edit(folder, "tests/limits.yaml", "# What fits.", "# What still fits.")
        assert watching.next() == "swapped"
        assert watching.digest == digest(folder)


def config_map(root: Path, name: str, change: Callable[[Path], None]) -> None:
    """As the kubelet does it: a new folder of files, then `..data` is swapped by a rename; the names are links through it."""
    shutil.copytree(REFERENCE, root / name)
    change(root / name)
    link = root / "..data_tmp"
    link.symlink_to(name)
    link.rename(root / "..data")
    for part in REFERENCE.iterdir():
        if not (root / part.name).is_symlink():
            (root / part.name).symlink_to(Path("..data") / part.name)


def test_a_config_map_is_swapped_by_a_link(tmp_path: Path) -> None:
    folder = tmp_path / "mounted"
    folder.mkdir()
    config_map(folder, "..2026_11_24", lambda part: None)
    with watched(folder, poll_s=1.0) as watching:
        before = watching.digest
        config_map(folder, "..2026_11_25", lambda part: edit(part, "chatbot.cedar", "// Team", "// The team"))
        assert watching.next() == "swapped"
        assert watching.digest == digest(folder) != before
        config_map(folder, "..2026_11_26", lambda part: edit(part, "chatbot.cedar", "permit (", "permit (("))
        assert watching.next() == "refused"
        assert watching.quiet()


def test_a_release_folder_behind_a_link_is_swapped(tmp_path: Path) -> None:
    for name in ("one", "two"):
        shutil.copytree(REFERENCE, tmp_path / "releases" / name)
    edit(tmp_path / "releases" / "two", "chatbot.cedar", "// Team", "// The team")
    current = tmp_path / "current"
    current.symlink_to("releases/one")
    with watched(current, poll_s=1.0) as watching:
        before = watching.digest
        (tmp_path / "next").symlink_to("releases/two")
        (tmp_path / "next").rename(current)
        assert watching.next() == "swapped"
        assert watching.digest == digest(current) != before
        # And from then on the new folder is watched, no longer the old one.
        edit(tmp_path / "releases" / "one", "research.cedar", "// Team", "// The team")
        edit(tmp_path / "releases" / "two", "research.cedar", "// Team", "// The team")
        assert watching.next() == "swapped"
        assert watching.digest == digest(current)


def test_the_folder_goes_away_and_comes_back(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    with watched(folder, poll_s=0.2) as watching:
        folder.rename(tmp_path / "aside")
        assert watching.next() == "refused"
        assert "cannot be read" in watching.source.status.refused
        edit(tmp_path / "aside", "chatbot.cedar", "// Team", "// The team")
        (tmp_path / "aside").rename(folder)
        assert watching.next() == "swapped"
        assert watching.source.status.refused == ""


def test_what_is_watched(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(folder)
    assert set(roots(link)) == {tmp_path.resolve(), folder.resolve(), (folder / "tests").resolve()}
    assert roots(tmp_path / "nowhere") == ()


class Folder:
    """A folder and the source on it, without a watcher: what a look at it does."""

    def __init__(self, folder: Path) -> None:
        self.path = folder
        self.told: list[str] = []
        self.loads = 0
        self.source = BundleSource(folder, self._load, clock=lambda: 7, reloaded=self.told.append)

    def _load(self, folder: Path) -> Bundle:
        self.loads += 1
        return load_bundle(folder)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    path = copy(tmp_path)
    (path / "tools.cedar").write_text(FORBID)
    return Folder(path)


def test_a_look_at_what_did_not_change_reads_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("authz.bundle.files.read_parts", None)
    for _ in range(3):
        assert not folder.source.refresh()
    assert folder.loads == 1


def test_a_touch_loads_nothing(folder: Folder) -> None:
    os.utime(folder.path / "chatbot.cedar")
    assert not folder.source.refresh()
    assert (folder.loads, folder.told) == (1, [])


def test_a50_a_half_written_file_leaves_the_last_good_one(folder: Folder) -> None:
    text = (folder.path / "chatbot.cedar").read_text()
    good = folder.source.current
    (folder.path / "chatbot.cedar").write_text(text[: len(text) // 2])
    assert not folder.source.refresh()
    assert folder.source.current is good
    (folder.path / "chatbot.cedar").write_text(text)
    assert not folder.source.refresh()
    assert folder.source.current is good
    assert folder.source.status.refused == ""


def test_a50_a_forbid_whose_file_is_missing_leaves_the_last_good_one(folder: Folder) -> None:
    good = folder.source.current
    (folder.path / "tools.cedar").unlink()
    assert not folder.source.refresh()
    assert folder.source.current is good
    assert "the forbid `no-tools` is missing" in folder.source.status.refused
    (folder.path / "retired.yaml").write_text("forbids: {no-tools: tools have a price now}\n")
    assert folder.source.refresh()
    assert folder.told == ["refused", "swapped"]


@pytest.mark.parametrize("change", ['@mode("shadow") forbid', "permit"])
def test_a50_a_forbid_that_no_longer_forbids_is_missing_too(folder: Folder, change: str) -> None:
    (folder.path / "tools.cedar").write_text(FORBID.replace("forbid", change))
    assert not folder.source.refresh()
    assert "the forbid `no-tools` is missing" in folder.source.status.refused


def test_a_retired_forbid_that_still_forbids_is_an_error(folder: Folder) -> None:
    (folder.path / "retired.yaml").write_text("forbids:\n  no-tools: tools have a price now\n")
    assert not folder.source.refresh()
    assert "retired.yaml:2:13: `no-tools` is not gone: it still forbids" in folder.source.status.refused


def test_a_bad_bundle_is_refused_once_and_not_at_every_look(folder: Folder) -> None:
    edit(folder.path, "chatbot.cedar", "permit (", "permit ((")
    for _ in range(3):
        assert not folder.source.refresh()
    assert folder.told == ["refused"]
    assert folder.loads == 2


def test_reloads_under_load_fail_no_decision_and_mix_no_bundles(tmp_path: Path) -> None:
    """The long run: `python -m tests.bundle.reloads --reloads 1000`."""
    result = reloads.run(40, tmp_path)
    assert result.problems == []
    assert result.decisions > 0
    assert result.most_alive <= reloads.MAX_ALIVE
