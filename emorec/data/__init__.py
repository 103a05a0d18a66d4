"""From raw logs to interactions, splits, sequences and graphs."""
