"""A run: settings, parts by name, methods, the run folder, trackers and the console. No data formats, no page."""
