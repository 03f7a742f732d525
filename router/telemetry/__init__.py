"""Metrics, the request log and the view of workers, merged over the router processes."""
