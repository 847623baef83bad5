"""RRDBNet: the generator of ESRGAN (Wang et al., ECCVW 2018, arXiv 1809.00219) and Real-ESRGAN (arXiv 2107.10833).

Kept from the published network: the function, the parameter names and shapes, the initial values, the arguments, those
of BasicSR. Better here: a scale that it is not made for is reported (it would make images of x4), and its size rule
says which images x2 and x1 take.

network.py holds all of it.
"""

from archs.rrdbnet.network import RRDB, ResidualDenseBlock, RRDBNet, configuration_from_state

__all__ = ["RRDB", "RRDBNet", "ResidualDenseBlock", "configuration_from_state"]
