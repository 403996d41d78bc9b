"""The integrator family of dynamical low-rank approximation for Ẏ = P(Y) F(t, Y): one interface,
one file per integrator.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
