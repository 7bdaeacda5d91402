"""Linear classifiers on features: fitting them, scoring them, matching their rows to classes."""
