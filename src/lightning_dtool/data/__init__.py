"""Frozen dtool datasets as the data of a Lightning training."""
