"""Behaviour that is true of any store, one module each."""
