"""Low-resolution images as cameras, networks and compression make them: blur, resizing, noise and JPEG, twice.

The synthesis of Real-ESRGAN (Wang et al., ICCVW 2021, arXiv 2107.10833), which HAT-Real and ESC-Real are trained on.
"""

from data.degradations.filters import filter2d, usm_sharpen
from data.degradations.jpeg import jpeg
from data.degradations.options import DegradationOptions
from data.degradations.pool import PairPool
from data.degradations.synthesis import degrade

__all__ = ["DegradationOptions", "PairPool", "degrade", "filter2d", "jpeg", "usm_sharpen"]
