"""What a data loader gives: inputs, labels and ids of samples. Never imports h5py."""
