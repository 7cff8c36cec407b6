"""``python -m shards.rebalance``: the operator's face."""

from shards.rebalance.cli import main

if __name__ == "__main__":
    main()
