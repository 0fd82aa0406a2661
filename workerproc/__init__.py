"""What runs inside a proc."""
