"""Exact resuming: the state that Lightning leaves out of a checkpoint, and how it is restored.

README.md in this folder explains the order of events.
"""
