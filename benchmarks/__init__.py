"""What recording costs: see README.md in this folder."""
