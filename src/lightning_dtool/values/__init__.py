"""Python values as strict JSON, and back."""
