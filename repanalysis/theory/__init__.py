"""Closed forms of the papers, one result per file, and experiments that confirm them."""
