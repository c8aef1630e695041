"""The way from a staged checkpoint to a frozen dataset, and the account of which path leads where."""
