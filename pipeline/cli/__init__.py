"""The command line: one click group, thin commands that check and then make one library call."""
