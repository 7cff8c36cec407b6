"""How long a dead child is waited for."""

from hypothesis import given
from hypothesis import strategies as st

from server.supervisor.slot import BACK_OFF_MAX_S, BACK_OFF_MIN_S, STEADY_S, BackOff


def test_wait_doubles_up_to_a_limit() -> None:
    """Each failure in a row doubles the wait, up to the longest one."""
    back_off = BackOff()
    waits = [back_off.died(was_ready=False, served_s=0.0) for _ in range(20)]
    assert waits[:4] == [BACK_OFF_MIN_S * factor for factor in (1, 2, 4, 8)]
    assert waits[-1] == BACK_OFF_MAX_S


def test_steady_child_starts_at_once_again() -> None:
    """A child that had served for a while is waited for as shortly as the first time."""
    back_off = BackOff()
    for _ in range(10):
        back_off.died(was_ready=True, served_s=0.0)
    assert back_off.died(was_ready=True, served_s=STEADY_S) == BACK_OFF_MIN_S


@given(st.lists(st.tuples(st.booleans(), st.floats(0, 10))))
def test_only_boots_count_towards_giving_up(deaths: list[tuple[bool, float]]) -> None:
    """The budget counts the deaths before ready since the last child that became ready, and waits stay in bounds."""
    back_off = BackOff()
    expected = 0
    for was_ready, served_s in deaths:
        if was_ready:
            back_off.ready()
            expected = 0
        else:
            expected += 1
        assert BACK_OFF_MIN_S <= back_off.died(was_ready=was_ready, served_s=served_s) <= BACK_OFF_MAX_S
        assert back_off.boot_failures == expected
