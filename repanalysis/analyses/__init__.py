"""Questions about recorded or running networks, a file or folder each."""
