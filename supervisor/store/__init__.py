"""What is kept of the tree: identity, desired, observed and what to go on with after a restart.

Knows: nothing; see `protocol` for the words, `keeper` for how the root uses it.
Does not know: anything.
Invariants: nothing is imported here, so that the writer's process loads little.
"""
