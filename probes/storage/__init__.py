"""Writing, reading, checking and merging HDF5 files of activations. Never imports torch."""
