"""The poison guard: which request made engines crash, and its refusal in every router."""
