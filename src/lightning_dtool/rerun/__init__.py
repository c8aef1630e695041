"""The plan that a rerun follows, and the random numbers that it starts from."""
