"""The commands of `vllama`, one a file: each is loaded when it is called, for `worker` has no use for a router."""
