"""The ops process."""
