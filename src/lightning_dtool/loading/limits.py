"""Limits of source.zip. They also hold when it is written, so every archive that this package writes can be read."""

MAX_SOURCE_BYTES = 64 * 2**20
"""The largest total size of the files in source.zip, uncompressed."""

MAX_SOURCE_FILES = 20_000
"""The largest number of files in source.zip."""
