"""What people bring: data, by specification."""
