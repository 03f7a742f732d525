"""The front door: HTTP limits, access control, CORS, and the dispatch of paths to handlers."""
