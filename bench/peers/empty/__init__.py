"""The floor: what a call costs when nothing is done with it."""
