"""How low-resolution images are made of high-resolution ones, by the rules of published data sets."""
