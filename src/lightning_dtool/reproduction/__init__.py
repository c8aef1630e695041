"""Repeating a recorded training, and judging whether the result is the same."""
