"""The CDNOW sample as orders: what is loaded, and what has to be there afterwards.

Run as a program it writes the CSV: ``python -m tests.support.cdnow orders.csv``.
"""

import csv
import sys
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import NamedTuple

SAMPLE = Path(__file__).resolve().parents[1] / "data" / "cdnow_sample.txt"
COLUMNS = ("customer_id", "currency_code", "sku", "quantity", "unit_price", "attr.cds", "attr.placed_on")


class Purchase(NamedTuple):
    """One purchase: who, when (YYYY-MM-DD), how many CDs, and the amount in dollars of them all."""

    customer_id: str
    placed_on: str
    cds: int
    amount: Decimal

    @property
    def total_minor(self) -> int:
        """The amount in cents."""
        return int(self.amount * 100)


def purchases(sample: Path = SAMPLE) -> Iterator[Purchase]:
    """Yields the purchases in the order of the file; customers by their id in the full data set."""
    with sample.open(encoding="ascii") as file:
        for line in file:
            customer_id, _, day, cds, amount = line.split()
            yield Purchase(customer_id, f"{day[:4]}-{day[4:6]}-{day[6:]}", int(cds), Decimal(amount))


def write_csv(path: Path) -> None:
    """Writes one order a purchase: a line of quantity 1 whose price is the amount."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for purchase in purchases():
            writer.writerow((purchase.customer_id, "USD", "cds", 1, purchase.amount, purchase.cds, purchase.placed_on))


if __name__ == "__main__":
    write_csv(Path(sys.argv[1]))
