"""The file: rows become orders, or rejects with a reason for a person.

Columns: ``customer_id,currency_code,sku,quantity,unit_price``, in any order; ``order_ref`` and ``attr.NAME`` may be
there. A row is an order of one line; rows with the same ``order_ref``, adjacent or not, are the lines of one. The same
file gives the same orders in the same sequence every time: an order comes when its last row was read.

Only what stands between the text and the request is judged here (numbers, decimals, encoding); what an order may
contain is the service's to decide.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from clients.money import INT64_MAX, to_minor
from clients.orders import NewOrder, OrderLine

if TYPE_CHECKING:
    import _csv

REQUIRED: Final = ("customer_id", "currency_code", "sku", "quantity", "unit_price")
ORDER_REF: Final = "order_ref"
ATTRIBUTE_PREFIX: Final = "attr."
REJECT_COLUMNS: Final = ("line", "reason")
"""What a rejects file has before the columns of its source; a corrected one can be loaded as it is."""

_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,30}")
_SURROGATE: Final = re.compile("[\ud800-\udfff]")


class TableError(Exception):
    """The file as a whole cannot be loaded."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row as it stands in the file, and the line it begins on, from 1."""

    line: int
    cells: tuple[str, ...]
    damage: str = ""
    """Why the text is no row, where it is none."""


@dataclass(frozen=True, slots=True)
class TableOrder:
    """One order of the file and the rows it is made of; ``draft.lines[i]`` is ``rows[i]``."""

    draft: NewOrder
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Reject:
    """One row that is not loaded, and why."""

    row: Row
    reason: str


@dataclass(frozen=True, slots=True)
class Survey:
    """What a first look at the file tells: its SHA-256, and how many rows and orders it holds, good or bad."""

    digest: str
    rows: int
    orders: int


class Table:
    """A CSV file of orders. Opening it reads the header; raises TableError for one that names no orders."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._rows() as rows:
            header = next(rows, None)
        if header is None:
            raise TableError(f"{path} is empty; its first row has to name the columns {','.join(REQUIRED)}")
        self.columns = tuple(name.strip() for name in header.cells)
        self._index = {name: position for position, name in enumerate(self.columns)}
        self._judge_header()
        self._attributes = [
            (name.removeprefix(ATTRIBUTE_PREFIX), position)
            for name, position in self._index.items()
            if name.startswith(ATTRIBUTE_PREFIX)
        ]
        self._rows_of_ref: Counter[str] = Counter()

    def survey(self) -> Survey:
        """Reads the whole file once. To be called before ``orders``; memory grows with the number of order_refs."""
        self._rows_of_ref.clear()
        count = alone = 0
        for row in self._data():
            count += 1
            if ref := self._ref(row):
                self._rows_of_ref[ref] += 1
            else:
                alone += 1
        return Survey(self.digest(), count, alone + len(self._rows_of_ref))

    def digest(self) -> str:
        """Returns the SHA-256 of the file as it is now."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def orders(self) -> Iterator[TableOrder | list[Reject]]:
        """Yields each order, or the rejects of its rows when one of them is bad, as its last row is read."""
        gathered: dict[str, list[Row]] = {}
        for row in self._data():
            ref = self._ref(row)
            if not ref:
                yield self._order([row])
                continue
            rows = gathered.setdefault(ref, [])
            rows.append(row)
            if len(rows) >= self._rows_of_ref[ref]:
                yield self._order(gathered.pop(ref))
        for rows in gathered.values():  # the file lost rows since the survey; its digest will tell
            yield self._order(rows)

    def source_cells(self, row: Row) -> Sequence[str]:
        """Returns a row's cells without the columns that a rejects file has put before them."""
        return row.cells[len(REJECT_COLUMNS) :] if self._is_rejects() else row.cells

    def source_columns(self) -> Sequence[str]:
        """Returns the columns without those of a rejects file."""
        return self.columns[len(REJECT_COLUMNS) :] if self._is_rejects() else self.columns

    # ------------------------------------------------------------------------------------------------------- below

    def _judge_header(self) -> None:
        if missing := [name for name in REQUIRED if name not in self._index]:
            raise TableError(
                f"{self.path}: the header lacks {', '.join(missing)}; needed are {','.join(REQUIRED)}, "
                f"and {ORDER_REF} and {ATTRIBUTE_PREFIX}NAME may be there"
            )
        if repeated := [name for name, times in Counter(self.columns).items() if times > 1]:
            raise TableError(f"{self.path}: the header names {', '.join(repeated)} more than once")
        known = {*REQUIRED, ORDER_REF, *(REJECT_COLUMNS if self._is_rejects() else ())}
        unknown = [name for name in self.columns if name not in known and not self._is_attribute(name)]
        if unknown:
            raise TableError(
                f"{self.path}: the header has columns that no order has: {', '.join(map(repr, unknown))}; "
                f"write {ATTRIBUTE_PREFIX}NAME for an attribute"
            )

    def _is_attribute(self, name: str) -> bool:
        return name.startswith(ATTRIBUTE_PREFIX) and name != ATTRIBUTE_PREFIX

    def _is_rejects(self) -> bool:
        return self.columns[: len(REJECT_COLUMNS)] == REJECT_COLUMNS

    @contextmanager
    def _rows(self) -> Iterator[Iterator[Row]]:
        # Bytes that are no UTF-8 come through as surrogates, so that one bad row is one bad row.
        with self.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield _numbered(csv.reader(file))

    def _data(self) -> Iterator[Row]:
        with self._rows() as rows:
            next(rows, None)
            yield from rows

    def _ref(self, row: Row) -> str:
        position = self._index.get(ORDER_REF)
        return row.cells[position] if position is not None and position < len(row.cells) else ""

    def _order(self, rows: list[Row]) -> TableOrder | list[Reject]:
        reasons: dict[int, str] = {}
        lines: list[OrderLine] = []
        attributes: dict[str, str] = {}
        for row in rows:
            try:
                lines.append(self._line(row))
                self._agree(rows[0], row)
                self._merge(attributes, row)
            except ValueError as error:
                reasons[row.line] = str(error)
        if not reasons:
            first = rows[0]
            draft = NewOrder(self._cell(first, "customer_id"), self._currency(first), lines, attributes)
            return TableOrder(draft, tuple(rows))
        line, reason = next(iter(reasons.items()))
        return [Reject(row, reasons.get(row.line, f"line {line} of the same order: {reason}")) for row in rows]

    def _line(self, row: Row) -> OrderLine:
        if row.damage:
            raise ValueError(row.damage)
        if len(row.cells) != len(self.columns):
            raise ValueError(f"has {len(row.cells)} cells, and the header has {len(self.columns)}")
        for name, cell in zip(self.columns, row.cells, strict=True):
            if _SURROGATE.search(cell):
                raise ValueError(f"{name}: is not UTF-8")
        quantity = self._cell(row, "quantity").strip()
        if not _INTEGER.fullmatch(quantity):
            raise ValueError(f"quantity: {quantity!r} is not a whole number")
        if abs(int(quantity)) > INT64_MAX:
            raise ValueError(f"quantity: {quantity} is more than 64 bits hold")
        try:
            price = to_minor(self._cell(row, "unit_price").strip(), self._currency(row))
        except ValueError as error:
            raise ValueError(f"unit_price: {error}") from None
        return OrderLine(self._cell(row, "sku"), int(quantity), price)

    def _agree(self, first: Row, row: Row) -> None:
        for name in ("customer_id", "currency_code"):
            if self._cell(row, name) != self._cell(first, name):
                raise ValueError(
                    f"{name}: {self._cell(row, name)!r} differs from {self._cell(first, name)!r} "
                    f"on line {first.line} of the same order"
                )

    def _merge(self, attributes: dict[str, str], row: Row) -> None:
        for name, position in self._attributes:
            value = row.cells[position]
            if value and attributes.setdefault(name, value) != value:
                raise ValueError(f"{ATTRIBUTE_PREFIX}{name}: {value!r} differs from {attributes[name]!r} of this order")

    def _cell(self, row: Row, name: str) -> str:
        position = self._index[name]
        return row.cells[position] if position < len(row.cells) else ""

    def _currency(self, row: Row) -> str:
        return self._cell(row, "currency_code").strip()


def _numbered(reader: _csv.Reader) -> Iterator[Row]:
    """Yields the rows that are not blank, each with the line it begins on; text that is no row as a damaged one."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(line, (), f"is no CSV row: {error}")
            continue
        if cells:
            yield Row(line, tuple(cells))
