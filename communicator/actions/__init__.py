"""What the communicator does in a proc, one module each: log in, sync (a push and a pull side by
side), reset connections, flush the outbox at a stop.

`call` and `told` are what pushes and pulls have in common.
"""
