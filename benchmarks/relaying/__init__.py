"""Parts of `benchmarks/communicator.py`."""
