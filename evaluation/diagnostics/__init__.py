"""Is a posterior to be trusted: draws as a data tree, importance weights, calibration, prediction, references, repair.
Works on fitted pairs and tensors, never on run folders."""
