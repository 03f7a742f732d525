"""Who gets a request: the pool of workers, leases, load, health and retry decisions. Pure state."""
