"""The record of a rebalance: what it keeps, and which steps it allows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.rebalance.record import (
    COMMANDS_MAX,
    STUCK_MAX,
    Command,
    Finished,
    IllegalStep,
    Kind,
    Options,
    RebalanceRecord,
    RecordDamaged,
    State,
    Stuck,
    history_from_bytes,
    history_to_bytes,
    start,
)
from shards.topology import Topology


def added() -> tuple[Topology, RebalanceRecord]:
    """A record that adds a shard to one, and the topology before it."""
    topology = Topology.initial(1)
    after = topology.with_shard_added()
    targets = {slot: shard for slot, shard in enumerate(after.slot_shards) if shard != topology.slot_shards[slot]}
    return topology, start(topology, targets, after.shards, kind=Kind.ADD, who="ann", at_unix_ms=1_000)


def test_a_record_comes_back_as_it_was_written() -> None:
    """A record with all that it can hold is read as it was written, and a changed byte at its start is noticed."""
    _, record = added()
    record = record.after(Command.PAUSE, "ben", "lunch", at_unix_ms=2_000).with_stuck([Stuck(7, "differs", ("0190",))])
    assert RebalanceRecord.from_bytes(record.to_bytes()) == record
    assert RebalanceRecord.from_bytes(record.to_bytes()).entries[-1].command is Command.PAUSE
    with pytest.raises(RecordDamaged):
        RebalanceRecord.from_bytes(b"\x00" + record.to_bytes()[1:])
    with pytest.raises(RecordDamaged, match="format 3"):
        RebalanceRecord.from_bytes(record.to_bytes()[:1] + b"\x03" + record.to_bytes()[2:])
    assert RebalanceRecord.from_bytes(record.to_bytes()[:1] + b"\x01" + record.to_bytes()[2:]) == record


def test_an_attempt_is_above_every_gen_and_every_attempt_before_it() -> None:
    """The attempt of a new rebalance is a gen that no slot ever had."""
    topology, record = added()
    assert record.attempt == 1
    moved = topology.with_shard_added()
    finished = record.after(Command.CANCEL, "ann").after(Command.FINISH, "mover")
    again = start(moved, {0: 0}, moved.shards, kind=Kind.REWEIGHT, who="ann", last=finished)
    assert again.attempt > max(*moved.slot_gens, finished.attempt)


@given(st.lists(st.sampled_from(list(Command)), max_size=40))
def test_steps_are_those_that_are_told(commands: list[Command]) -> None:
    """Whatever is commanded, a step is taken if it was told to be legal, and attempts never fall."""
    _, record = added()
    for command in commands:
        legal = record.legal()
        try:
            following = record.after(command, "ann")
        except IllegalStep:
            assert command not in legal or command is Command.START
            continue
        assert following.attempt >= record.attempt
        if command is Command.TAKE_OVER or (command is Command.RESUME and record.state is State.CANCELLED):
            assert following.attempt == record.attempt + 1
        assert (following.finished_unix_ms == 0) == following.is_open
        assert len(following.entries) <= COMMANDS_MAX
        record = following


def test_there_is_a_way_back_until_the_emptied_shard_is_let_go() -> None:
    """What is over may be taken back and verified; once a drained shard is cleaned away only the latter."""
    topology, record = added()
    assert record.next_words == ("pause", "cancel")
    done = record.after(Command.FINISH, "mover")
    assert done.next_words == ("cleanup", "start", "reverse", "verify")
    assert done.after(Command.CLEAN_UP, "ann").next_words == ("start", "reverse", "verify")
    two = topology.with_shard_added()
    targets = {slot: 0 for slot, shard in enumerate(two.slot_shards) if shard}
    drained = start(two, targets, topology.shards, kind=Kind.DRAIN, who="ann").after(Command.FINISH, "mover")
    assert "reverse" in drained.next_words
    assert drained.after(Command.CLEAN_UP, "ann").next_words == ("start", "verify")
    nothing = start(two, {}, two.shards, kind=Kind.REWEIGHT, who="ann").after(Command.FINISH, "mover")
    assert nothing.next_words == ("cleanup", "start")


def test_a_rebalance_under_way_refuses_another() -> None:
    """While one is open no other starts, and the refusal says what is legal instead."""
    topology, record = added()
    with pytest.raises(IllegalStep, match="rebalance 1 is running; it allows: pause, cancel"):
        start(topology, {0: 0}, topology.shards, kind=Kind.SPLIT, who="ann", last=record)


def test_what_remains_is_what_the_topology_has_not_seen() -> None:
    """Moves are done when the topology says so."""
    topology, record = added()
    assert record.remaining(topology) == record.moves
    assert record.moved(topology) == ()
    after = topology.with_shard_added()
    assert record.remaining(after) == ()
    assert record.moved(after) == record.moves


def test_stuck_slots_are_named_once_and_counted() -> None:
    """A slot that is stuck again is named with its newest reason; what is not named any more is counted."""
    _, record = added()
    record = record.with_stuck([Stuck(3, "first"), Stuck(1, "one")]).with_stuck([Stuck(3, "second")])
    assert record.stuck == (Stuck(1, "one"), Stuck(3, "second"))
    assert record.stuck_count == 2
    many = record.with_stuck(Stuck(slot, "many") for slot in range(10, 10 + STUCK_MAX))
    assert len(many.stuck) == STUCK_MAX
    assert many.stuck_count == STUCK_MAX + 2


def test_history_keeps_the_newest() -> None:
    """The history comes back as written, without the oldest when it is full."""
    _, record = added()
    finished = [Finished(n, Kind.ADD, State.DONE, 5, 5, n, record.entries) for n in range(120)]
    assert history_from_bytes(history_to_bytes(finished)) == tuple(finished[-100:])
    assert Options().slots_at_once == 16
