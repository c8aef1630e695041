"""The fault campaign: trainings that are killed, filled up and cut off, and what must hold after each."""
