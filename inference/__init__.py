"""q: views, encoders, guides, objectives and the loop. No data sets, no command lines."""
