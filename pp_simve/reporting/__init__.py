"""The page of a run: HTML, curves, tables and the map of the latents, as pure functions of plain numbers and arrays.
Nothing here reads or writes a run folder; `pp_simve.report` does."""
