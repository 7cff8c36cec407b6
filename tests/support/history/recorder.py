"""Histories in memory and on disk."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import msgspec

from tests.support.history.operation import Operation, Outcome, Result


class History:
    """Operations in the order of their invocation."""

    def __init__(self, operations: list[Operation] | None = None) -> None:
        self.operations: list[Operation] = operations or []

    def __len__(self) -> int:
        return len(self.operations)

    def __iter__(self) -> Iterator[Operation]:
        return iter(self.operations)

    def invoke(self, operation: Operation) -> Operation:
        """Notes that the operation is asked for now; it is unknown until ``conclude``."""
        operation.invoked = time.monotonic()
        self.operations.append(operation)
        return operation

    @staticmethod
    def conclude(operation: Operation, result: Result) -> None:
        """Notes that the caller of an invoked operation was told this now."""
        operation.result = result
        operation.returned = None if result.outcome is Outcome.UNKNOWN else time.monotonic()

    def save(self, path: Path) -> None:
        """Writes one JSON object a line."""
        encode = msgspec.json.Encoder().encode
        with path.open("wb") as file:
            file.writelines(encode(operation) + b"\n" for operation in self.operations)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads what ``save`` wrote."""
        decode = msgspec.json.Decoder(Operation).decode
        with path.open("rb") as file:
            return cls([decode(line) for line in file])
