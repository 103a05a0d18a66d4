"""Results for people: tables, plots, and one page per run."""
