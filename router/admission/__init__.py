"""How many requests may wait."""
