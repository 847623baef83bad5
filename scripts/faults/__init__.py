"""Parts of scripts/soak.py: trainings that are disturbed at random, and the proof that nothing was lost."""
