"""Reading data loaders: inputs, labels and ids of samples. Never imports h5py."""
