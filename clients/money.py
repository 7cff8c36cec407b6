"""Amounts as people write them, and as the service counts them: integers in minor units (ISO 4217)."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from iso4217 import Currency

INT64_MAX: Final = 2**63 - 1
_DECIMAL: Final = re.compile(r"[+-]?[0-9]{1,30}(?:\.[0-9]{1,30})?")
_DIGITS: Final = {currency.code: currency.exponent or 0 for currency in Currency}


def minor_digits(currency_code: str) -> int | None:
    """Returns how many decimals a currency has (2 for EUR, 0 for JPY); None for a code that ISO 4217 does not list."""
    return _DIGITS.get(currency_code)


def to_minor(text: str, currency_code: str) -> int:
    """Returns a decimal amount in minor units, exactly.

    Raises ValueError, with a reason for a person, when the text is no decimal number, the currency is unknown, the
    amount is finer than its minor unit, or int64 cannot hold it. Zeros behind the last decimal are not finer.
    """
    digits = minor_digits(currency_code)
    if digits is None:
        raise ValueError(f"{currency_code!r} is no currency of ISO 4217, so its minor unit is not known")
    if not _DECIMAL.fullmatch(text):
        raise ValueError(f"{text!r} is not a decimal number such as 19.99")
    minor = Decimal(text).scaleb(digits)
    if minor != minor.to_integral_value():
        raise ValueError(f"{text} is finer than the minor unit of {currency_code}, which has {digits} decimals")
    if abs(minor) > INT64_MAX:
        raise ValueError(f"{text} is more than 64 bits hold")
    return int(minor)


def to_text(minor: int, currency_code: str) -> str:
    """Returns minor units as a decimal amount, with all decimals of the currency; an unknown one has none."""
    digits = minor_digits(currency_code) or 0
    sign, whole = "-" if minor < 0 else "", str(abs(minor)).rjust(digits + 1, "0")
    return f"{sign}{whole[:-digits]}.{whole[-digits:]}" if digits else f"{sign}{whole}"
