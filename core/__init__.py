"""What every floor may use: the error a user sees, atomic files, and the one source of randomness."""
