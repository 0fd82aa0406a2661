"""Python stacks of a process that cannot answer, read from its memory."""
