"""The journal of a load: what it knows after any death of its writer."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.load import Journal, JournalError
from clients.load.journal import journal_path


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file that is loaded."""
    return tmp_path / "orders.csv"


def test_what_was_written_is_known_again(source: Path) -> None:
    """Batches, their ids, fates and rejects, and the end, are the same for the next process."""
    with Journal.open(source, "digest", endpoint="here:1") as journal:
        first, second = journal.begin(3, 1000), journal.begin(2, 2000)
        journal.finish(first, {1: ["bad", "worse"]})
        journal.mint_again([4], 3000)
        ids = [journal.mint_of(second, position).request_id(position) for position in (3, 4)]
    with Journal.open(source, "digest") as journal:
        assert [(batch.first, batch.count) for batch in journal.batches] == [(0, 3), (3, 2)]
        assert journal.next_position == 5
        assert journal.done == {0}
        assert journal.rejects == {1: ["bad", "worse"]}
        assert journal.header["endpoint"] == "here:1"
        again = journal.batches[1]
        assert [journal.mint_of(again, position).request_id(position) for position in (3, 4)] == ids
        assert ids[0] == second.mint.request_id(3)
        assert ids[1] != second.mint.request_id(4)
        assert journal.complete is None
        journal.finish_all({"loaded": 5})
    with Journal.open(source, "digest") as journal:
        assert journal.complete == {"loaded": 5}
    with Journal.open(source, "other", anew=True) as journal:
        assert not journal.batches


@given(cut=st.integers(0, 400))
def test_a_write_cut_short_never_happened(tmp_path_factory: pytest.TempPathFactory, cut: int) -> None:
    """Whatever byte the writer died at, the journal opens with a beginning of what was written, and goes on."""
    source = tmp_path_factory.mktemp("cut") / "orders.csv"
    with Journal.open(source, "digest") as journal:
        for _ in range(3):
            journal.finish(journal.begin(10, 1000), {})
    path = journal_path(source)
    content = path.read_bytes()
    path.write_bytes(content[: min(cut, len(content))])
    with Journal.open(source, "digest") as journal:
        known = len(journal.batches)
        assert known <= 3
        assert journal.done <= {batch.first for batch in journal.batches}
        assert journal.begin(1, 1).first == 10 * known
    assert path.read_bytes().endswith(b"\n")


def test_a_changed_file_is_refused(source: Path) -> None:
    """The journal of another content is refused with both ways out."""
    with Journal.open(source, "digest"):
        pass
    with pytest.raises(JournalError, match=r"Put the former content back .* --anew"):
        Journal.open(source, "other")


def test_two_loads_of_a_file_exclude_each_other(source: Path) -> None:
    """While one process has the journal another one is refused, and afterwards it is not."""
    with Journal.open(source, "digest"), pytest.raises(JournalError, match="another process is loading"):
        Journal.open(source, "digest")
    with Journal.open(source, "digest"):
        pass


@pytest.mark.parametrize("damage", [b"{}\n", b"no json\n", b'{"batch":[7,1],"time_ms":1,"seed":"00"}\n'])
def test_damage_is_named_with_its_line(source: Path, damage: bytes) -> None:
    """A journal that was changed by another hand is refused, never guessed."""
    with Journal.open(source, "digest") as journal:
        journal.begin(3, 1000)
    with journal_path(source).open("ab") as file:
        file.write(damage)
    with pytest.raises(JournalError, match=r"journal:3 is damaged"):
        Journal.open(source, "digest")


def test_a_record_that_was_cut_leaves_nothing(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a full disk took of a record is taken back, so that records after it are read by the next process."""
    with Journal.open(source, "digest") as journal:
        first = journal.begin(2, 1000)
        write = os.write
        with monkeypatch.context() as full:
            full.setattr(os, "write", lambda fd, line: write(fd, line[:9]))
            with pytest.raises(OSError, match="is the disk full"):
                journal.begin(3, 2000)
        journal.finish(first, {})
    with Journal.open(source, "digest") as journal:
        assert (journal.next_position, journal.done) == (2, {0})
