"""Benchmarks of the package against its alternatives; README.md in this folder describes them."""
