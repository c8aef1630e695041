"""Redaction of credentials in texts, source code and records."""
