"""Images to another size."""
