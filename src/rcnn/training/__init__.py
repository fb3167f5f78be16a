"""Training runs, from data to report."""
