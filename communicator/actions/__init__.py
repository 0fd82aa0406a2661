"""What the communicator does in a proc: log in, and sync (push, then pull)."""
