"""Finds workers: registry snapshots and events, static workers, and whom to trust."""
