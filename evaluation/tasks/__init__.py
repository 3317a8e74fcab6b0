"""Tasks: what probes predict from a representation (class, view parameters, attributes), one task a file.

The probes themselves are in `probes`.
"""
