"""Child processes: start them, watch them, and end their whole process tree."""
