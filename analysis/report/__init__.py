"""One page that shows runs: curves, scores, pictures, and how to repeat them."""
