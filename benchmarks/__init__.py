"""Benchmarks: ``python -m benchmarks.NAME`` prints a table and ends with one JSON line. None is a timed test."""
