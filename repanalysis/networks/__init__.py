"""Networks, one file each: torch modules whose layers are all visible to hooks."""
