"""Forwards a request: attempts, retries, relay of the response, stall watch."""
