"""Outputs of a network's layers during forward passes. Never imports h5py."""
