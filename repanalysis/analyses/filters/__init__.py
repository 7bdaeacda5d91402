"""Single filters: label clusters, signal-to-noise ratios, and laws of both."""
