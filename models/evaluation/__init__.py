"""Scores of a network on data sets."""
