"""When the loader's journal is on the disk."""

import os
from pathlib import Path

import pytest

from clients.load import Journal
from clients.load.journal import journal_path


class Disk:
    """How much of each file has been synced, by inode; directories by their path."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.synced: dict[int, int] = {}
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._note)

    def _note(self, fd: int) -> None:
        self._fsync(fd)
        stat = os.fstat(fd)
        self.synced[stat.st_ino] = stat.st_size

    def holds(self, path: Path) -> bool:
        """Whether all of a file has been synced."""
        stat = path.stat()
        return self.synced.get(stat.st_ino) == stat.st_size


def test_what_must_not_be_forgotten_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new journal with its name, ids before they are sent, new ids, and the end are on the disk at once."""
    source = tmp_path / "orders.csv"
    path = journal_path(source)
    disk = Disk(monkeypatch)
    with Journal.open(source, "digest") as journal:
        assert disk.holds(path)
        assert disk.holds(tmp_path)
        first = journal.begin(3, 1000)
        assert disk.holds(path)
        journal.mint_again([1], 2000)
        assert disk.holds(path)
        journal.finish(first, {})
        assert not disk.holds(path), "a fate that is forgotten is found out again, so it costs no sync"
        journal.finish_all({"loaded": 3})
        assert disk.holds(path)
