"""What the kept tokens of a model hold, and what its head makes of them."""
