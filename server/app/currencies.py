"""The currencies an order may be in."""

from __future__ import annotations

from typing import Final

from iso4217 import Currency

CURRENCIES: Final = frozenset(c.code for c in Currency if c.exponent is not None)
"""ISO 4217 alphabetic codes that have a minor unit: amounts are counted in it, so gold and test codes are left out."""
