"""The same promises, asked of several implementations of one port."""
