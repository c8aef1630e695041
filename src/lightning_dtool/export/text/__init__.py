"""Records, listings and results as text for a terminal."""
