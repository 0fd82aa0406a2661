"""What every part of the root needs of the operating system."""
