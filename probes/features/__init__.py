"""Readers of features that other programs have saved; `probes.open` returns them like recorded activations."""
