"""From a text to settings, or every fault at once; what a reload would do."""
