"""Policies: which of several candidates gets a request."""
