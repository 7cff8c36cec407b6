from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shards.contract import (
    APPLIED,
    MARK_BYTES,
    SEALED,
    Corrupt,
    DeadlineExceeded,
    Full,
    Invalid,
    Outcome,
    OutcomeUnknown,
    Overloaded,
    Row,
    StoreError,
    Unavailable,
    Verdict,
)
from shards.handing.frames import (
    FRAME_BYTES_MAX,
    FrameReader,
    Handed,
    Kind,
    Malformed,
    NotTaken,
    frame,
    pack_answer,
    pack_row,
    unpack_answers,
    unpack_rows,
)
from shards.keys import key_of
from tests.support.rows import new_row

ROWS = st.builds(
    lambda order_id, gen, customer, versions, body: Row(
        key_of(order_id, gen), customer, bytes(MARK_BYTES * versions), body
    ),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**32 - 1),
    st.text(max_size=40),
    st.integers(1, 6),
    st.binary(max_size=400),
)
HANDED = st.builds(Handed, st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1), ROWS, st.floats(0, 1e9))
ERRORS = [Corrupt, DeadlineExceeded, Invalid, NotTaken, OutcomeUnknown, Overloaded, StoreError, Unavailable]
ANSWERS = st.one_of(
    st.sampled_from([APPLIED, SEALED, Outcome(Verdict.CLASH)]),
    st.builds(lambda row: Outcome(Verdict.CLASH, row), ROWS),
    st.builds(lambda family, text: family(text), st.sampled_from(ERRORS), st.text(max_size=50)),
)


@given(st.lists(HANDED, max_size=5))
def test_rows_arrive_as_they_were_sent(rows: list[Handed]) -> None:
    """A frame of rows is read as the rows that were packed, in their order."""
    assert list(unpack_rows(b"".join(pack_row(row) or b"" for row in rows))) == rows


@given(st.lists(st.tuples(st.integers(0, 2**64 - 1), ANSWERS), max_size=5))
def test_answers_arrive_as_they_were_sent(answers: list[tuple[int, Outcome | StoreError]]) -> None:
    """A frame of answers is read as the outcomes and the errors, by class and text, that were packed."""
    found = list(unpack_answers(b"".join(pack_answer(*answer) for answer in answers)))
    assert [number for number, _ in found] == [number for number, _ in answers]
    for (_, told), (_, heard) in zip(answers, found, strict=True):
        assert heard == told if isinstance(told, Outcome) else (type(heard), str(heard)) == (type(told), str(told))


@pytest.mark.parametrize(("error", "heard"), [(Full("no room"), Unavailable), (ValueError("odd"), StoreError)])
def test_other_errors_arrive_as_their_family(error: Exception, heard: type[StoreError]) -> None:
    """An error of no kind of its own arrives as the family that says the same of what was written."""
    ((_, answer),) = unpack_answers(pack_answer(1, error))
    assert type(answer) is heard


@given(st.lists(st.tuples(st.sampled_from(list(Kind)), st.binary(max_size=60)), max_size=5), st.data())
def test_a_stream_is_cut_into_its_frames(frames: list[tuple[Kind, bytes]], data: st.DataObject) -> None:
    """However a stream of frames is cut into pieces, the same frames are read."""
    stream = b"".join(frame(kind, body) for kind, body in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader = FrameReader()
    found = [read for start, end in pairwise([0, *cuts, len(stream)]) for read in reader.feed(stream[start:end])]
    assert found == frames


@given(st.binary(max_size=200))
def test_any_other_bytes_are_malformed(noise: bytes) -> None:
    """Bytes that nobody packed are read as something, or refused as malformed, and nothing else happens."""
    for read in (FrameReader().feed, unpack_rows, unpack_answers):
        try:
            list(read(noise))
        except Malformed:
            continue


def test_another_version_and_a_frame_too_large_are_malformed() -> None:
    """A frame of another version, of an unknown kind, or longer than the most is refused before its body comes."""
    for head in (b"\0\0\0\0\2\1", b"\0\0\0\0\1\x63", (FRAME_BYTES_MAX + 1).to_bytes(4) + b"\1\1"):
        with pytest.raises(Malformed):
            FrameReader().feed(head)


def test_a_row_too_large_is_not_packed() -> None:
    """A row that fits no frame is left to who has it; one that is there and fits none is not told."""
    large = new_row(body=bytes(FRAME_BYTES_MAX))
    assert pack_row(Handed(1, 0, large, 1.0)) is None
    ((_, answer),) = unpack_answers(pack_answer(1, Outcome(Verdict.CLASH, large)))
    assert isinstance(answer, NotTaken)
