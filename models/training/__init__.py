"""Training: the loop, its state, what follows an iteration."""
