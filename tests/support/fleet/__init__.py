"""Whole systems: routers, agents and workers together, live or in simulated time."""
