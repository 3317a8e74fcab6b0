"""What a representation knows: probes, content, style, figures. Works on arrays and fitted pairs, never on run folders."""
