"""States of slots and leases: their forms, and when a lease has ended for a mover."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.contract import Corrupt
from shards.facts import Fact, Guard
from shards.keys import SLOTS
from shards.leases import LEASE_S, SCOPE, Lease, LeaseDamaged, LeaseWatch, SlotStates, SlotStatesWriter, Telemetry
from shards.leases.states import STATES, Word
from tests.support.memory_facts import MemoryFacts

SLOT_SETS = st.frozensets(st.integers(0, SLOTS - 1))
COUNTS = st.integers(0, 2**53)
MEASURES = st.floats(0, 1e9)


@given(st.builds(SlotStates, st.integers(1, 2**53), COUNTS, COUNTS, st.booleans(), SLOT_SETS))
def test_states_are_read_as_they_were_kept(states: SlotStates) -> None:
    """The states of slots survive being kept."""
    assert SlotStates.from_fact(states.to_fact()) == states


@given(
    st.builds(
        Lease,
        st.text(min_size=1),
        COUNTS,
        COUNTS,
        st.floats(0.001, 1e6),
        st.builds(Telemetry, MEASURES, st.floats(0, 1), MEASURES),
    )
)
def test_leases_are_read_as_they_were_kept(lease: Lease) -> None:
    """A lease survives being kept."""
    assert Lease.from_fact(lease.fact_name, lease.to_fact(3)) == lease


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"{}",
        b"\xff\x00",
        SlotStates().to_fact().value.replace(b'"format":1', b'"format":2'),
        SlotStates().to_fact().value.replace(b'"paused":[]', b'"paused":[4096]'),
    ],
)
def test_damaged_states_are_told(value: bytes) -> None:
    """What is not a form of the states, or one of a later release, is refused."""
    with pytest.raises(LeaseDamaged):
        SlotStates.from_fact(Fact(1, value))
    with pytest.raises(LeaseDamaged):
        Lease.from_fact("lease/a", Fact(1, value))


@given(st.builds(SlotStates, paused=SLOT_SETS, epoch_min=COUNTS), SLOT_SETS, SLOT_SETS, COUNTS)
def test_states_follow_each_other(states: SlotStates, pause: frozenset[int], unpause: frozenset[int], to: int) -> None:
    """The next states pause and unpause what is named, and never ask for an earlier epoch."""
    later = states.next(pause=pause, unpause=unpause, epoch_min=to)
    assert later.revision == states.revision + 1
    assert later.paused == (states.paused | pause) - unpause
    assert later.epoch_min == max(states.epoch_min, to)
    assert (later.is_active, later.attempt) == (states.is_active, states.attempt)


class Clock:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        """Seconds."""
        return self.now_s


async def test_pause_is_pending_until_confirmed_or_ended() -> None:
    """A worker that has neither renewed under the new states nor outlived its lease is pending; a new one never is."""
    facts, clock = MemoryFacts(), Clock()
    writer, watch = SlotStatesWriter(facts), LeaseWatch(facts, clock)
    states = await writer.read()
    for worker in ("confirms", "is frozen", "left"):
        lease = Lease(worker, states.revision, 1)
        assert await facts.grant(SCOPE, lease.fact_name, lease.to_fact(1), Guard(STATES, states.revision))
    await watch.look()
    clock.now_s += 3
    paused = states.next(attempt=1, pause=frozenset({7}))
    assert await writer.replace(states, paused)
    assert await writer.read() == paused
    written_s = clock()
    await facts.delete(SCOPE, "lease/left", 1)
    assert await watch.look() == watch.leases
    assert set(watch.pending(paused.revision, written_s)) == {"confirms", "is frozen"}
    lease = Lease("confirms", paused.revision, 2)
    assert await facts.renew(SCOPE, lease.fact_name, lease.to_fact(2), Guard(STATES, paused.revision))
    await watch.look()
    assert set(watch.pending(paused.revision, written_s)) == {"is frozen"}
    assert set(watch.behind(2)) == {"is frozen"}
    clock.now_s = 100.0 + LEASE_S
    assert set(watch.pending(paused.revision, written_s)) == {"is frozen"}
    clock.now_s += 0.2
    assert not watch.pending(paused.revision, written_s)
    assert set(watch.live()) == {"confirms"}
    assert await watch.forget("is frozen")
    assert set(await watch.look()) == {"confirms"}


async def test_a_word_counts_as_long_as_the_lease_beside_it_is_there() -> None:
    """What a worker has told confirms for it, makes its lease last no longer, and goes with the lease."""
    facts, clock = MemoryFacts(), Clock()
    writer, watch = SlotStatesWriter(facts), LeaseWatch(facts, clock)
    states = await writer.read()
    for worker in ("tells", "is silent"):
        lease = Lease(worker, states.revision, 1)
        assert await facts.grant(SCOPE, lease.fact_name, lease.to_fact(1), Guard(STATES, states.revision))
    await watch.look()
    paused = states.next(pause=frozenset({7}))
    assert await writer.replace(states, paused)
    clock.now_s += 3
    word = Word("tells", paused.revision, 2)
    await facts.tell(SCOPE, word.fact_name, word.to_fact(1))
    await facts.tell(SCOPE, "word/nobody", word.to_fact(1))
    await watch.look()
    assert set(watch.pending(paused.revision, clock())) == set(watch.behind(2)) == {"is silent"}
    assert set(watch.pending(paused.revision + 1, clock())) == set(watch.behind(3)) == {"tells", "is silent"}
    clock.now_s = 100.0 + LEASE_S * 1.1
    await watch.look()
    assert not watch.live()
    assert await watch.forget("tells")
    assert word.fact_name not in await facts.list(SCOPE)
    facts.kept[SCOPE, "word/is silent"] = Fact(1, b"{}")
    with pytest.raises(Corrupt):
        await watch.look()


async def test_a_lease_first_seen_late_ends_by_the_write() -> None:
    """After the lease's duration since the pause was written nobody is pending, even if first seen after it."""
    facts, clock = MemoryFacts(), Clock()
    writer, watch = SlotStatesWriter(facts), LeaseWatch(facts, clock)
    states = await writer.read()
    lease = Lease("unseen", states.revision, 1)
    await facts.grant(SCOPE, lease.fact_name, lease.to_fact(1), Guard(STATES, states.revision))
    assert await writer.replace(states, states.next())
    written_s = clock()
    clock.now_s += LEASE_S + 0.2
    await watch.look()
    assert not watch.pending(2, written_s)
    assert set(watch.live()) == {"unseen"}
