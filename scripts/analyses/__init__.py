"""The kinds of analysis that ``scripts/analyse.py`` does, one module each: HELP, add_arguments, run."""
