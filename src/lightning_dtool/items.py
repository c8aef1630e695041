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

RESUMPTION_SECTION = "lightning_dtool"
"""The key in a Lightning checkpoint for what an exact resume needs besides."""

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

METRICS_ITEM = "metrics.json"
"""What an evaluation measured, and how."""

PREDICTIONS_ITEM = "predictions.csv"
"""What the model said of each sample."""

CONFUSION_ITEM = "confusion_matrix.csv"
"""How often which class was taken for which."""

PICTURE_ITEM = "confusion_matrix.png"
"""The same as a picture."""

EVALUATION_TAG = "lightning-evaluation"
"""The tag of every dataset that holds an evaluation."""
