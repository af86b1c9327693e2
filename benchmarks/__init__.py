"""Benchmarks. Each measures its baseline in the same run. `make bench`, or `python -m benchmarks ingest layouts`."""
