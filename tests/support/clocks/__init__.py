"""Clocks of processes that tests shift."""
