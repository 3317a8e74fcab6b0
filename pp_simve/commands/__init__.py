"""What the commands do, and their options. Modules of the same name in `pp_simve` parse the command line without
importing torch, and then call them."""
