"""Benchmarks: ``python -m benchmarks.NAME`` prints a table and ends with one JSON line. None of them is a timed test."""
