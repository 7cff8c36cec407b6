"""What the processes of a server say to each other."""

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from server.config import Config
from server.processes import BEAT, READY, Control, ControlReader, Launch, State, WorkerStatus, beat, stalled_in

CONTROLS = st.builds(
    Control,
    st.lists(
        st.builds(
            WorkerStatus,
            st.integers(0, 63),
            st.text(max_size=30),
            st.sampled_from(State),
            st.integers(0, 9),
            st.booleans(),
        ),
        max_size=5,
    ).map(tuple),
    st.booleans(),
)


@given(st.lists(CONTROLS, min_size=1, max_size=5), st.data())
def test_messages_survive_any_cut(controls: list[Control], data: st.DataObject) -> None:
    """However the pipe cuts them, the last complete message is what the reader has."""
    stream = b"".join(control.to_line() for control in controls)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=6)))
    reader = ControlReader()
    heard = [reader.feed(stream[start:end]) for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert [control for control in heard if control is not None][-1] == controls[-1]


@given(st.lists(st.floats(-1, 2), max_size=5), st.booleans())
def test_beats_carry_a_share(shares: list[float], was_ready: bool) -> None:
    """What beats tell is read to the percent, clipped to a share, whatever else stands among them."""
    said = READY * was_ready + BEAT + b"".join(map(beat, shares))
    told = stalled_in(said)
    if not shares:
        assert told is None
    else:
        clipped = [min(1.0, max(0.0, share)) for share in shares]
        assert told is not None
        assert abs(told - sum(clipped) / len(clipped)) <= 0.005 + 1e-9  # half a percent, and what floats lose
    assert (READY in said) == was_ready


def test_launch_travels_in_the_environment() -> None:
    """A child is given exactly what its parent meant, and the rest of the environment as it was."""
    launch = Launch(config=Config(workers=3), number=1, metrics_dir=Path("a"), metrics_id="1-0", status_fd=7)
    environ = launch.environ({"PATH": "x"})
    assert environ["PATH"] == "x"
    assert Launch.from_environ(environ) == launch
