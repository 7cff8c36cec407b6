"""The parent: starts, watches and replaces the workers and the exporter, and ends when they have.

It imports the standard library and a few modules of ours that do the same, runs no event loop and serves nobody, so
that there is next to nothing in it that could fail. One thread waits for signals, bytes from children and the next
thing due; everything happens in that loop.
"""
