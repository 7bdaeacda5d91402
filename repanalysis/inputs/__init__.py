"""Networks, data, labels and weights, by specification."""
