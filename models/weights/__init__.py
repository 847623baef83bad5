"""Weight files: their forms, which network they belong to, fitting them in."""
