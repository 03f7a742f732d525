"""The routing file: its schema, its YAML reader, its checks and the table that it becomes."""
