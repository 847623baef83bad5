"""Making data sets out of folders of images; the work of ``scripts/prepare_dataset.py``."""
