"""From a staged checkpoint to a frozen dataset."""
