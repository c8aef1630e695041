"""Credentials in texts, source code and records, and their replacement."""
