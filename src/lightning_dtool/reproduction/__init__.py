"""Training again what a record tells of, and judging whether the outcome is the same."""
