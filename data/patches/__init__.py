"""Training patches: which, from where, and how their low-resolution side is made."""
