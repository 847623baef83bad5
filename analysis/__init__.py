"""Looking into a network: attribution, attention, similarity, frequencies, complexity, and pages that show a run.

Functions here take networks and tensors and return arrays; ``scripts/analyse.py`` and ``scripts/report.py`` read files
and write pictures.
"""
