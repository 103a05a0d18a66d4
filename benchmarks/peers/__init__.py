"""Other projects' recommenders, each in an environment of its own; files pass between."""
