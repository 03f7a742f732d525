"""A request on its way: attempts, retries, relay of the answer, stall watch."""
