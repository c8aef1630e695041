"""Exact resuming: what Lightning leaves out of a checkpoint, and how a run goes on as if it had never stopped."""
