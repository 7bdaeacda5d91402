"""Features that people have already, in the files that they have them in: `probes.open` reads them like activations."""
