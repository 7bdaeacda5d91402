"""Studies of several steps behind one command."""
