"""Witnesses: somebody else's memory of a tree head."""
