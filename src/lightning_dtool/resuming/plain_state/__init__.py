"""The plain state of a run: what its objects hold and no state_dict saves, found, saved and put back."""
