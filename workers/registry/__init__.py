"""The registry on Redis or the embedded Valkey: records, messages, signatures and the client."""
