"""What can go wrong with a cluster, each with a text of one line for a person."""

from __future__ import annotations


class ClusterError(Exception):
    """A cluster could not do what was asked; the text is one line and says what to do where that is known."""


class MissingError(ClusterError):
    """Something that must be installed is not; the text says what installs it."""


class NodeError(ClusterError):
    """A node ended, would not start or did not answer in time; the text names it and its log."""
