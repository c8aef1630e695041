"""The publishing of staged checkpoints as frozen datasets, and the account of which path leads to which dataset."""
