"""Limits the number of waiting requests."""
