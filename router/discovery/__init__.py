"""Finds workers: registry snapshots and events, static workers, liveness, and which records to trust."""
