"""Focused attention: windows whose layers hand on which keys mattered (PFT)."""
