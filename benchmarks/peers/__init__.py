"""Process pools behind one face, and what is measured of them. `benchmarks/pools.py` is the
command; nothing here is part of fsmv2."""
