"""Test problems with exact solutions and closed-form constants, all checked by ``self_test``."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
