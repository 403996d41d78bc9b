"""The oracle: judge one step by two modules that share no code, also not with the algorithm.

:func:`check_step` runs the whole conformance kit on a backend, :func:`summary` puts its report into
words, and :func:`conformance_suite` makes a pytest class of the kit.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
