"""Load balancing: the pool of workers, leases, load, health, and retry decisions. No I/O."""
