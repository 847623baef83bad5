"""Pieces that several networks share, each written once."""
