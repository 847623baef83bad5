"""Sparse matrix products of PFT."""
