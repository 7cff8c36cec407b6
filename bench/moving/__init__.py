"""The work of the part ``rebalance``: copying by itself, and moves under load."""
