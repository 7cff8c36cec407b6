"""``python -m clients``: the order service from a shell."""

from clients.cli import main

if __name__ == "__main__":
    main()
