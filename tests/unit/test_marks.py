from hypothesis import given
from hypothesis import strategies as st

from shards.contract import MARK_BYTES, Row
from shards.keys import Key

MARKS = st.lists(st.binary(min_size=MARK_BYTES, max_size=MARK_BYTES), min_size=1, max_size=5)


def row_of(marks: list[bytes]) -> Row:
    """A row with these marks."""
    return Row(Key(0, 0, 0, bytes(16)), "customer", b"".join(marks), b"body")


@given(MARKS)
def test_a_row_knows_its_requests(marks: list[bytes]) -> None:
    """A row has a version a mark, tells the mark of each, and finds the version that a request made."""
    row = row_of(marks)
    assert row.version == len(marks)
    assert [row.mark(version) for version in range(1, row.version + 1)] == marks
    for mark in marks:
        made = row.version_made_by(mark[:16])
        assert marks[made - 1][:16] == mark[:16]


@given(MARKS)
def test_other_bytes_are_no_request(marks: list[bytes]) -> None:
    """A request id that equals a digest, or lies across two marks, has made no version."""
    row = row_of(marks)
    request_ids = {mark[:16] for mark in marks}
    for start in range(len(row.marks) - 15):
        chosen = row.marks[start : start + 16]
        assert chosen in request_ids or row.version_made_by(chosen) == 0
