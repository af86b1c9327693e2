"""Measurements, each beside its baseline in one run. `make bench`, or `python -m benchmarks ingest layouts`."""
