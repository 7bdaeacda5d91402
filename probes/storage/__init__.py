"""Activations in HDF5 files: how they are written, read, checked and put together. Never imports torch."""
