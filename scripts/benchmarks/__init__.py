"""The comparisons that ``scripts/benchmark.py`` measures, one module per group."""
