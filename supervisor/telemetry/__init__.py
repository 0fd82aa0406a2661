"""From events and readings to log lines, metrics, documents and answers."""
