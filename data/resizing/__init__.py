"""All resizing of images: as MATLAB, the Pillow library and PyTorch do it."""
