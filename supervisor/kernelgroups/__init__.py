"""Control groups: all that a proc has started dies with one write, where the kernel lets us."""
