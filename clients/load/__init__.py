"""Loads a CSV file of orders, each exactly once, through any number of kills of either side.

``table`` reads the file, ``journal`` remembers on disk what was asked for under which request ids, ``loader`` sends,
``rejects`` writes down what could not be loaded.
"""

from clients.load.journal import Journal, JournalError
from clients.load.loader import Loader, LoadStopped, Pace
from clients.load.rejects import rejects_path
from clients.load.table import Table, TableError
from clients.load.totals import Totals

__all__ = ["Journal", "JournalError", "LoadStopped", "Loader", "Pace", "Table", "TableError", "Totals", "rejects_path"]
