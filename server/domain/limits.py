"""Every limit on what a caller may send, in one place.

``ORDER_BYTES_MAX`` follows from the others: the largest order they allow stays below it (a test builds that order).
"""

from __future__ import annotations

from typing import Final

CUSTOMER_ID_BYTES_MAX: Final = 128
LINES_MAX: Final = 200
SKU_BYTES_MAX: Final = 64
QUANTITY_MAX: Final = 1_000_000
UNIT_PRICE_MINOR_MAX: Final = 10**12
TOTAL_MINOR_MAX: Final = 2**63 - 1
ATTRIBUTES_MAX: Final = 32
ATTRIBUTE_KEY_BYTES_MAX: Final = 64
ATTRIBUTE_VALUE_BYTES_MAX: Final = 256
ORDER_BYTES_MAX: Final = 32 * 1024
CALL_BYTES_MAX: Final = 3 * 1024 * 1024
REASON_BYTES_MAX: Final = 256
BATCH_ITEMS_MAX: Final = 500
PAGE_SIZE_DEFAULT: Final = 50
PAGE_SIZE_MAX: Final = 1_000
REQUEST_ID_AHEAD_MS_MAX: Final = 60_000
VERSION_MAX: Final = 2**63 - 1
