"""Functions that observe a run. Each module turns the Trainer and the LightningModule into a part of the record."""
