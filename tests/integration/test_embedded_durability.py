"""What is answered is on the disk: seen at the calls into the operating system, since a kill loses no written page."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import apsw
import pytest

from shards.contract import Row, Store, Verdict
from shards.stores.embedded import EmbeddedStore, backup, prepare, restore, shard_path
from shards.stores.embedded.control import EmbeddedFacts
from shards.stores.embedded.datadir import control_path
from shards.topology import Topology
from shards.topology_store import TopologyStore
from tests.support.rows import new_row, next_version


class Disk(apsw.VFS):
    """The system's own files, with a note of the ones that hold writes which no fsync has followed."""

    def __init__(self) -> None:
        self.system = apsw.vfs_names()[0]  # the default so far
        super().__init__("crest-noting-disk", self.system, makedefault=True)
        self.unsynced: set[str] = set()
        self.writes = 0

    def xOpen(  # noqa: N802  # named by the driver
        self, name: str | apsw.URIFilename | None, flags: list[int]
    ) -> apsw.VFSFile:
        """Opens a file that takes notes."""
        return File(self, name, flags)


class File(apsw.VFSFile):
    """One open file."""

    def __init__(self, disk: Disk, name: str | apsw.URIFilename | None, flags: list[int]) -> None:
        super().__init__(disk.system, name, flags)
        path = name.filename() if isinstance(name, apsw.URIFilename) else name or ""
        self._disk: Final = disk
        self._name: Final = Path(path).name

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802  # named by the driver
        """Writes, and notes it."""
        super().xWrite(data, offset)
        self._disk.writes += 1
        self._disk.unsynced.add(self._name)

    def xSync(self, flags: int) -> None:  # noqa: N802  # named by the driver
        """Syncs, and notes it."""
        super().xSync(flags)
        self._disk.unsynced.discard(self._name)


@pytest.fixture
def disk() -> Iterator[Disk]:
    """What files opened from now on are kept on."""
    disk = Disk()
    yield disk
    disk.unregister()


async def stored(store: Store, disk: Disk, *rows: Row) -> list[Verdict]:
    """Commits rows; fails when the answer comes before the disk has them."""
    writes = disk.writes
    verdicts = [outcome.verdict for outcome in await store.commit(rows)]
    assert disk.writes > writes
    assert not disk.unsynced, f"answered, and not synced: {disk.unsynced}"
    return verdicts


async def test_every_answer_comes_after_the_sync(tmp_path: Path, disk: Disk) -> None:
    """Creates, later versions, commits of which a row is refused, and seals are synced before they are answered."""
    os.close(prepare(tmp_path / "data", 1))
    store = await EmbeddedStore.open(shard_path(tmp_path / "data", 0))
    first, second = new_row("first"), new_row("second")
    assert await stored(store, disk, first) == [Verdict.APPLIED]
    assert await stored(store, disk, next_version(first), second) == [Verdict.APPLIED, Verdict.APPLIED]
    assert await stored(store, disk, first, new_row("third")) == [Verdict.CLASH, Verdict.APPLIED]
    writes = disk.writes
    await store.seal(first.key)
    assert disk.writes > writes
    assert not disk.unsynced
    await store.close()


async def test_a_topology_is_synced_before_it_is_answered(tmp_path: Path, disk: Disk) -> None:
    """A topology that was created or changed is on the disk, since order ids are placed by it from then on."""
    os.close(prepare(tmp_path / "data", 2))
    facts = await EmbeddedFacts.open(control_path(tmp_path / "data"))
    store = TopologyStore(facts)
    first = Topology.initial(2)
    writes = disk.writes
    await store.create(first)
    assert disk.writes > writes
    assert not disk.unsynced
    writes = disk.writes
    assert await store.compare_and_set(first.epoch, first.with_shard_added(100))
    assert disk.writes > writes
    assert not disk.unsynced
    await facts.close()


def test_names_of_new_files_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new directory is ready only when its files' names, and its own, are on the disk."""
    synced: list[Path] = []
    fsync = os.fsync

    def note(fd: int) -> None:
        fsync(fd)
        synced.append(Path(f"/proc/self/fd/{fd}").readlink())

    monkeypatch.setattr(os, "fsync", note)
    data_dir = tmp_path / "data"
    os.close(prepare(data_dir, 2))
    assert synced == [data_dir, tmp_path]


async def test_copies_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file of a backup and of a restored directory, and its name, is on the disk before it is called done."""
    os.close(prepare(tmp_path / "data", 2))
    facts = await EmbeddedFacts.open(control_path(tmp_path / "data"))
    await TopologyStore(facts).create(Topology.initial(2))
    await facts.close()
    synced: set[int] = set()
    fsync = os.fsync

    def note(fd: int) -> None:
        fsync(fd)
        synced.add(os.fstat(fd).st_ino)

    monkeypatch.setattr(os, "fsync", note)
    copy, restored = tmp_path / "copy", tmp_path / "restored"
    backup(tmp_path / "data", copy)
    restore(copy, restored)
    names = {"control.db", "shard-0.db", "shard-1.db"}
    for path in (
        copy,
        restored,
        copy / "manifest.json",
        *(place / name for place in (copy, restored) for name in names),
    ):
        assert path.stat().st_ino in synced, path.relative_to(tmp_path)
