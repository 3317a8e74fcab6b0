"""A run: command lines, configuration, data, named recipes, run folders.

The program p lives in `pp_simve.models`, q and the loop in `pp_simve.inference`, evaluation in `pp_simve.evaluation`.
"""

__version__ = "0.1.0"
