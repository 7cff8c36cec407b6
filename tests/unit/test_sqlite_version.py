import os
from pathlib import Path

import apsw
import pytest

from shards.stores.embedded import DataDirError, prepare


@pytest.mark.parametrize("version", ["3.51.2", "3.46.1", "3.9.0"])
def test_a_sqlite_that_can_lose_commits_is_refused(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A SQLite with the defect of restarted logs is refused by its version before any file is made."""
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: version)
    with pytest.raises(DataDirError, match=f"SQLite {version} can lose commits; install an apsw with 3.51.3 or later"):
        prepare(tmp_path / "data", 1)
    assert [path.name for path in tmp_path.rglob("*.db*")] == []


@pytest.mark.parametrize("version", ["3.51.3", "3.52.0", "4.0.0"])
def test_a_sound_sqlite_is_taken(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first sound version and later ones are taken."""
    monkeypatch.setattr(apsw, "sqlite_lib_version", lambda: version)
    os.close(prepare(tmp_path / "data", 1))


def test_a_sqlite_without_carray_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build that lacks what reads are made of is refused at the start, and not at the first read."""
    monkeypatch.setattr(apsw, "compile_options", ("ENABLE_FTS5",))
    with pytest.raises(DataDirError, match="carray"):
        prepare(tmp_path / "data", 1)
