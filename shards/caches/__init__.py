"""What remembers rows so that a store need not be asked; each obeys ``shards.contract.Cache``."""
