"""The reference for GeoLoRA: rank-adaptive low-rank fine-tuning by a geometric integrator.

Names are imported at their first use: every pytest run in an environment with this package loads
the plugin, which imports this file first.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
