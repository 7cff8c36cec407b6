"""The order service's processes: supervisor, workers and exporter, and what they are made of."""
