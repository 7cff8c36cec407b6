"""How many slots are paused together."""

from hypothesis import given
from hypothesis import strategies as st

from shards.rebalance.pausing import AIM_S, Calm, Pause, Together, mean_steps_ms

MOST = 16


def pause(slots: int, copied_s: float) -> Pause:
    """A pause of so many slots, whose rest took so long to copy, and everything else long."""
    return Pause(slots, 1.0, 1.0, copied_s, 1.0, 1.0, 1.0)


@given(st.lists(st.floats(0, 1)))
def test_the_number_stays_within_its_bounds(copied: list[float]) -> None:
    """However long pauses take, at least one slot is paused, and never more than allowed."""
    together = Together(MOST)
    for copied_s in copied:
        together.took(pause(together.slots, copied_s))
        assert 1 <= together.slots <= MOST


def test_long_copying_halves_the_number_and_short_copying_lets_it_grow() -> None:
    """All are paused together until the rest takes long in most of the last pauses; then one more each time."""
    together = Together(MOST)
    assert together.slots == MOST
    for _ in range(5):
        together.took(pause(MOST, AIM_S * 2))
    assert together.slots == MOST // 2
    for more in range(1, MOST):
        together.took(pause(together.slots, AIM_S / 2))
        assert together.slots == min(MOST, MOST // 2 + more)


@given(st.lists(st.booleans(), min_size=5))
def test_a_busy_moment_is_not_the_slots_fault(late: list[bool]) -> None:
    """While no two of five neighbouring pauses take long, the number stays."""
    together = Together(MOST)
    since = 5
    for is_late in late:
        since = 0 if is_late and since >= 2 else since + 1
        together.took(pause(together.slots, 9.0 if since == 0 else 0.0))
        assert together.slots == MOST


def test_a_pause_of_fewer_slots_says_nothing_of_more() -> None:
    """The last pause of a batch, of what was left, does not raise the number."""
    together = Together(MOST)
    for _ in range(5):
        together.took(pause(MOST, AIM_S * 2))
    before = together.slots
    together.took(pause(before - 1, 0.0))
    assert together.slots == before


def test_an_answer_is_late_by_what_is_usual_and_never_when_it_is_prompt() -> None:
    """A store that is slow always is as calm as it gets; one that is late for once is not, but for milliseconds."""
    calm = Calm()
    assert all(calm.is_usual(took_s) for took_s in (0.05, 0.06, 0.05, 0.07))
    assert not calm.is_usual(0.2)
    assert calm.is_usual(0.06)
    quick = Calm()
    assert all(quick.is_usual(took_s) for took_s in (0.001, 0.001, 0.004, 0.015))


def test_the_steps_are_told_by_name_in_their_order() -> None:
    """What pauses are spent on is the mean of each step, in milliseconds."""
    told = mean_steps_ms([Pause(1, 0.1, 0.2, 0.3, 0.1, 0.4, 0.5), Pause(1, 0.3, 0.4, 0.5, 0.3, 0.6, 0.7)])
    assert [(name, round(ms)) for name, ms in told.items()] == [
        ("asked", 200), ("confirmed", 300), ("copied", 400), ("opened", 200), ("flipped", 500), ("known", 600),
    ]  # fmt: skip
    assert mean_steps_ms([]) == {}
