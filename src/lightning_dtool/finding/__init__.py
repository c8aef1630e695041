"""Modules that are looked up without importing anything: where they lie, and what Python would run to import them."""
