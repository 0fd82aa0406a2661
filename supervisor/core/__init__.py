"""The functional core: values in, values out.

Knows: specs, variables, locations, templates, states and decisions, the child diff, the
life of a proc as a table, the queue's order, the ledger of attempts.
Does not know: clocks, files, sockets, processes, logs. `now` and randomness are arguments.
Invariants: imports nothing but the standard library's pure parts and msgspec (jinja2 in
`template` only); no function here has an effect outside its arguments.
"""
