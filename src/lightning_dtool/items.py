"""The names of what a checkpoint dataset holds."""

CHECKPOINT_ITEM = "checkpoint.ckpt"
"""The Lightning checkpoint, a plain torch file."""

RECORD_ITEM = "provenance.json"
"""The record."""

SOURCE_ITEM = "source.zip"
"""The code that ran."""

REQUIREMENTS_ITEM = "requirements.txt"
"""The installed packages, pinned."""

RANDOM_STATES_ITEM = "random_states.json"
"""The states of the random number generators, at the moments that the record names."""

INITIAL_WEIGHTS_ITEM = "initial_weights.ckpt"
"""The weights that training began with, a plain torch file; only if the user asked for it."""

TRACE_ITEM = "trace.jsonl"
"""Digests of the parameters after each optimizer step; only if the user asked for it."""

VERDICT_ITEM = "verdict.json"
"""What a rerun has shown, in a dataset of its own."""

CHECKPOINT_TAG = "lightning-checkpoint"
"""The tag of every checkpoint dataset."""

REPRODUCTION_TAG = "lightning-reproduction"
"""The tag of every verdict."""

BEST_TAG = "best"
LAST_TAG = "last"
SUPERSEDED_TAG = "superseded"
