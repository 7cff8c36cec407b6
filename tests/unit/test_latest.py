"""What is remembered of a value is never told of another one."""

from hypothesis import given
from hypothesis import strategies as st

from server.app import latest
from server.app.latest import Latest


@given(st.lists(st.tuples(st.sampled_from((b"a", b"b", b"c")), st.integers(0, 2), st.booleans()), max_size=50))
def test_it_answers_what_making_anew_would(asked: list[tuple[bytes, int, bool]]) -> None:
    """Whatever is asked in whatever order, the answer is of this value, made once while it is the same or equal."""
    values = [(number,) for number in range(3)]
    made: list[int] = []

    def make(value: tuple[int]) -> int:
        made.append(value[0])
        return value[0]

    memory = Latest(make, lambda _value, _made: True)
    last: dict[bytes, int] = {}
    expected = 0
    for key, number, is_other_object in asked:
        expected += last.get(key) != number
        last[key] = number
        assert memory.of(key, (int(str(number)),) if is_other_object else values[number]) == number
    assert len(made) == expected


def test_it_is_bounded() -> None:
    """It remembers no more values than it says, and nothing of large ones."""
    memory: Latest[int, str] = Latest(str, lambda value, _made: value % 2 == 0)
    for number in range(3 * latest.ENTRIES_MAX):
        assert memory.of(b"%d" % number, number) == str(number)
        assert len(memory._made) <= latest.ENTRIES_MAX
    memory.of(b"odd", 10**6 + 1)
    assert b"odd" not in memory._made
