"""The pool as a library, for programs without a tree: any thread, futures, executor."""
