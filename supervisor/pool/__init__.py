"""The pool of procs: queue, lanes, births, deadlines, kills, deaths and what is told of them."""
