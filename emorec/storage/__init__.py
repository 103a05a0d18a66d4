"""Files and folders that are whole or not there, and what a run folder holds."""
