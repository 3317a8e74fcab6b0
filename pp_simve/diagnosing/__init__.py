"""What the command `diagnose` asks of a fitted pair, and how it says what it found.
The checks are those of `pp_simve.evaluation.posterior`; their results become entries of diagnostics.json."""
