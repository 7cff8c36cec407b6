"""Rebalances that are disturbed at every point: whatever dies, no order is lost, doubled or answered from the past."""
