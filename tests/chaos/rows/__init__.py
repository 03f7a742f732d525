"""The rows of the fault matrix, by kind of fault. A row registers itself by the decorator `row`."""
