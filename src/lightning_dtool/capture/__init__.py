"""Observation of a run: each module has functions from the Trainer and the LightningModule to a part of the record."""
