"""Closed forms of the papers, one result a file, and the experiments that confirm them."""
