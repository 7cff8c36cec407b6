"""The parts of the benchmark that compare rates: each module has one, called ``PART``."""
