"""Datasets that are mutated in every file, through every command and every reader."""
