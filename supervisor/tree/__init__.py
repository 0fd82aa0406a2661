"""The tree at work: nodes, the six steps of the tick, what a worker's code may do to them."""
