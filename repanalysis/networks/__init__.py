"""Networks: one file each, plain torch modules that probes see every layer of."""
