"""The copy of a checkpoint in memory, which is written while training continues."""
