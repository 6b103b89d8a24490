"""The loop around a solver: when to stop, what to report, what to save."""
