"""Attention inside windows, with a position bias and a mask."""
