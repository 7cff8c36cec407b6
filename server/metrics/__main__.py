"""``python -m server.metrics`` prints ``docs/metrics.md``."""

from server.metrics.page import page

print(page(), end="")  # noqa: T201  # the page is the product
