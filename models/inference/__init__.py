"""Images through a network: whole, in tiles, pictures, films."""
