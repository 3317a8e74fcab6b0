"""What the command `evaluate` asks of a fitted pair, and how it prints what it found.
The evaluators themselves are in `pp_simve.evaluation`; here stands which of them are asked, and of what."""
