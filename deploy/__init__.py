"""Clusters to develop and test against, and the same for people with containers."""
