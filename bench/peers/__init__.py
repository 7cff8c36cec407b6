"""Servers to compare with, and how they are built."""
