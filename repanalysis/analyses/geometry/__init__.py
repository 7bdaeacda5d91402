"""Class geometry of layers across depth: states of statistics, metrics, their uncertainty."""
