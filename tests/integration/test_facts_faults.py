"""Facts while processes die and answers are lost."""

import contextlib
import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any, cast

import pytest

from shards.contract import StoreError, Unavailable
from shards.facts import Fact, Facts, Guard
from shards.stores.cassandra.control import Control
from shards.stores.cassandra.session import Kind, Session, Step
from shards.stores.embedded import EmbeddedFacts, control_path, prepare
from tests.support.waiting import until


async def test_killed_writers_leave_what_was_acknowledged(tmp_path: Path) -> None:
    """After writers are killed amid their changes, the facts are those of the last acknowledged change, or the next."""
    os.close(prepare(tmp_path / "data", 1))
    path = control_path(tmp_path / "data")
    told = [tmp_path / "told 0", tmp_path / "told 1"]
    facts = await EmbeddedFacts.open(path)
    with contextlib.ExitStack() as running:
        for log in told:
            output = running.enter_context(log.open("w"))
            process = start([sys.executable, "-m", "tests.support.facts_writer", str(path)], output)
            running.callback(process.wait)
            running.callback(process.kill)
        await until(partial(facts.revision, "s", "n"), lambda revision: revision >= 100)
    acknowledged = sorted(int(line) for log in told for line in log.read_text().splitlines())
    last = await facts.read("s", "n")
    lease = await facts.read("s", "lease")
    assert last is not None
    assert lease is not None
    assert len(set(acknowledged)) == len(acknowledged)  # no revision was made twice
    assert acknowledged[-1] <= last.revision <= acknowledged[-1] + len(told)
    assert lease.revision <= last.revision
    assert await facts.replace("s", "n", last.revision, Fact(last.revision + 1, b""))
    assert await facts.renew("s", "lease", Fact(last.revision + 1, b""), Guard("doc", 1))
    await facts.close()


def start(arguments: list[str], output: IO[str]) -> subprocess.Popen[bytes]:
    """A process that writes to a file."""
    return subprocess.Popen(arguments, stdout=output)


class LossySession:
    """A control table in memory whose batches are lost as told: each is ``ok``, ``before`` or ``after`` its effect."""

    def __init__(self, fates: Sequence[str]) -> None:
        self._fates = iter(itertools.chain(fates, itertools.repeat("ok")))
        self.row: Fact | None = None
        self.batches = 0

    async def batch(self, steps: Sequence[Step]) -> Sequence[dict[str, Any]] | None:
        """One conditional statement."""
        self.batches += 1
        fate = next(self._fates)
        if fate == "unavailable":
            raise Unavailable("told to be")
        if fate == "before":
            raise StoreError("lost")
        (step,) = steps
        applied = step.statement(self, *step.values)
        if fate == "after":
            raise StoreError("its answer is lost")
        return None if applied else ({},)

    async def execute(self, _statement: object, _values: object, kind: Kind) -> Sequence[tuple[int, bytes]]:
        """A read of the one fact."""
        assert kind is Kind.SERIAL_READ
        return [tuple(self.row)] if self.row else []  # type: ignore[list-item]  # a fact is such a tuple

    def create(self, _scope: str, _name: str, revision: int, value: bytes) -> bool:
        """IF NOT EXISTS."""
        if self.row is None:
            self.row = Fact(revision, value)
            return True
        return False

    def replace(self, revision: int, value: bytes, _scope: str, _name: str, before: int) -> bool:
        """IF revision = ?."""
        if self.row is not None and self.row.revision == before:
            self.row = Fact(revision, value)
            return True
        return False

    def delete(self, _scope: str, _name: str, before: int) -> bool:
        """IF revision = ?."""
        if self.row is not None and self.row.revision == before:
            self.row = None
            return True
        return False


def control_over(session: LossySession) -> Facts:
    """The control table over such a session."""
    statements = SimpleNamespace(
        control_create=LossySession.create,
        control_replace=LossySession.replace,
        control_delete=LossySession.delete,
        control_read="read",
    )
    return Control(cast("Session", session), cast("Any", statements))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause between two tries."""
    monkeypatch.setattr("shards.stores.cassandra.control._PAUSE_S", 0)


FATES = [fates for length in range(3) for fates in itertools.product(("before", "after"), repeat=length)]


@pytest.mark.parametrize("fates", FATES, ids="-".join)
async def test_lost_answers_are_settled(fates: Sequence[str]) -> None:
    """Whatever of a change is lost, twice in a row, it is made once and reported as made."""
    session = LossySession(fates)
    facts = control_over(session)
    assert await facts.create("s", "n", Fact(1, b"mine")) == Fact(1, b"mine")
    session = LossySession(fates)
    session.row = Fact(1, b"")
    facts = control_over(session)
    assert await facts.replace("s", "n", 1, Fact(2, b"mine"))
    assert session.row == Fact(2, b"mine")
    session = LossySession(fates)
    session.row = Fact(2, b"")
    assert await control_over(session).delete("s", "n", 2)
    assert session.row is None


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts.create("s", "n", Fact(1, b"mine")),
        lambda facts: facts.replace("s", "n", 1, Fact(2, b"mine")),
        lambda facts: facts.delete("s", "n", 1),
    ],
)
async def test_loss_without_end_is_told(change: Callable[[Facts], Any]) -> None:
    """A change whose every try is lost ends as one of unknown outcome, after three tries."""
    session = LossySession(["before"] * 3)
    session.row = Fact(1, b"")
    with pytest.raises(StoreError, match="lost"):
        await change(control_over(session))
    assert session.batches == 3


async def test_a_change_of_others_is_not_taken_for_ours() -> None:
    """When another one's change is found after a lost try, ours was refused."""
    session = LossySession(["before"])
    session.row = Fact(2, b"theirs")
    assert not await control_over(session).replace("s", "n", 1, Fact(2, b"mine"))
