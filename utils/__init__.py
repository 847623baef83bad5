"""Small pieces that every layer may use; imports nothing else of this project."""
