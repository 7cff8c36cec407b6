"""The rejects file: every row that was not loaded, with its line and the reason before its own cells.

It can be corrected and loaded as it is: the first two columns are passed over then. All rows of a bad order stand in
it, so that the corrected order is whole.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from io import TextIOWrapper
from pathlib import Path
from typing import Final

from clients.errors import OrderError
from clients.load.table import REJECT_COLUMNS, Reject, Table, TableOrder

_LINE_FIELD: Final = re.compile(r"lines\[(\d+)\]\.?(.*)")


def rejects_path(source: Path) -> Path:
    """Returns where the rejects of a file go: ``orders.csv`` -> ``orders.rejects.csv``, beside it."""
    return source.with_name(f"{source.name.removesuffix('.csv')}.rejects.csv")


class Rejects:
    """Writes the file when there is something to write; a file of an earlier run is replaced."""

    def __init__(self, table: Table) -> None:
        self.path = rejects_path(table.path)
        self.rows = 0
        self._table = table
        self._file: TextIOWrapper | None = None
        self.path.unlink(missing_ok=True)

    def add(self, rejects: Iterable[Reject]) -> None:
        """Appends rows; they are with the operating system when this returns."""
        for reject in rejects:
            if self._file is None:
                self._file = self.path.open("w", encoding="utf-8", errors="surrogateescape", newline="")
                csv.writer(self._file).writerow([*REJECT_COLUMNS, *self._table.source_columns()])
            cells = self._table.source_cells(reject.row)
            csv.writer(self._file).writerow([reject.row.line, reject.reason, *cells])
            self.rows += 1
        if self._file is not None:
            self._file.flush()

    def close(self) -> None:
        """Closes the file. Idempotent."""
        if self._file is not None:
            self._file.close()


def reasons(error: OrderError, order: TableOrder) -> list[str]:
    """Returns a reason for each row of an order that the service refused.

    A row tells what is wrong with its own line; one without fault of its own names the line at fault.
    """
    of_order: list[str] = []
    of_row: dict[int, list[str]] = {}
    for field, description in error.violations:
        match = _LINE_FIELD.fullmatch(field)
        if match and int(match[1]) < len(order.rows):
            of_row.setdefault(int(match[1]), []).append(f"{match[2] or 'line'}: {description}")
        else:
            of_order.append(f"{field}: {description}")
    if not of_order and not of_row:
        of_order.append(str(error))
    own = ["; ".join([*of_row.get(i, ()), *of_order]) for i in range(len(order.rows))]
    if of_row and not of_order:
        guilty, what = next(iter(of_row.items()))
        other = f"line {order.rows[guilty].line} of the same order: {'; '.join(what)}"
        own = [reason or other for reason in own]
    return own
