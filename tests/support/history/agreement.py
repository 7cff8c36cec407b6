"""Whether all who saw one version of an order saw the same bytes, and one past."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tests.support.history.operation import Kind, Operation, Outcome


def disagreements(asked: Iterable[Operation]) -> Iterator[tuple[str, str, Sequence[Operation]]]:
    """Yields (order, what differs, the two answers) for each answer that contradicts the first of its kind."""
    bytes_of: dict[tuple[str, int], tuple[str, Operation]] = {}
    steps_of: dict[tuple[str, int], tuple[str, Operation]] = {}
    for operation in asked:
        for order, version, fingerprint, steps in _shown(operation):
            first, other = bytes_of.setdefault((order, version), (fingerprint, operation))
            if first != fingerprint:
                yield order, f"version {version} has different bytes in two answers", (other, operation)
                continue
            for number, step in enumerate(steps):
                first, other = steps_of.setdefault((order, number), (step, operation))
                if first != step:
                    what = f"transition {number}" if number else "what never changes"
                    yield order, f"{what} differs in two answers", (other, operation)


def _shown(operation: Operation) -> Iterator[tuple[str, int, str, tuple[str, ...]]]:
    told = operation.result
    if told.outcome is not Outcome.OK:
        return
    if operation.kind is Kind.LIST:
        for entry in told.listed:
            yield entry.order, entry.version, entry.fingerprint, entry.steps
    else:
        yield told.order, told.version, told.fingerprint, told.steps
