"""Checks of the command `diagnose` that run on demand (refinement, NUTS) and their progress bar.
The others are in `pp_simve.evaluation.posterior.suite`."""
