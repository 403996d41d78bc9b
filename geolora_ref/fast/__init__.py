"""The fast path (torch): the fused adapter function, and the step of all layers at once.  The
oracle judges it like any backend.

:func:`adapted_linear` computes a frozen layer and its adapter in one function; its backward pass
leaves dK, dL, dS in ``.grad``. :class:`LayerBank` holds many layers and steps them in place;
:func:`fast_updates` does the same for lists of factors. :func:`step` and :func:`batched_step` have
the signature of a backend.  :func:`keep_freed_memory` avoids page faults in training.
"""

from geolora_ref.support.extras import noting_how_to_install

with noting_how_to_install():
    from geolora_ref.fast.backend import batched_step, fast_updates, step
    from geolora_ref.fast.layer.linear import adapted_linear
    from geolora_ref.fast.memory import keep_freed_memory
    from geolora_ref.fast.update.bank import LayerBank
    from geolora_ref.fast.update.report import NonFiniteUpdateError, StepReport

__all__ = [
    "LayerBank",
    "NonFiniteUpdateError",
    "StepReport",
    "adapted_linear",
    "batched_step",
    "fast_updates",
    "keep_freed_memory",
    "step",
]
