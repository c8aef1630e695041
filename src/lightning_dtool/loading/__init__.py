"""Verified records and model classes from a checkpoint's URI."""
