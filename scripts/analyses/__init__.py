"""The kinds of analysis that ``scripts/analyse.py`` does, one module each: add_arguments, run."""
