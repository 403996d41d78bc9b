"""An array that counts the floating point operations done on it: a cost that no other process can
disturb.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

__all__ = ["Counted"]


class Counted(np.ndarray[Any, Any]):
    """A NumPy array whose products, sums and factorisations are counted, in units of one
    multiplication or addition.

    A product of a x b and b x c counts 2abc, a QR of a x b 2ab², an SVD of a x b 20ab·min(a, b)
    (the textbook constants; only the exponents matter), anything elementwise its size.
    """

    flops: ClassVar[float] = 0.0

    def __array_ufunc__(self, ufunc: Any, method: str, *inputs: Any, **options: Any) -> Any:
        plain = [np.asarray(x) if isinstance(x, Counted) else x for x in inputs]
        targets = options.get("out", ())
        if targets:
            options["out"] = tuple(np.asarray(target) for target in targets)
        result = getattr(ufunc, method)(*plain, **options)
        if ufunc is np.matmul:
            Counted.flops += 2.0 * plain[0].size * plain[1].shape[-1]
        else:
            Counted.flops += float(max(np.size(x) for x in plain))
        if targets:
            return targets[0]
        return result.view(Counted) if isinstance(result, np.ndarray) else result

    def __array_function__(self, function: Any, types: Any, args: Any, options: Any) -> Any:
        if function is np.linalg.qr:
            a, b = args[0].shape
            Counted.flops += 2.0 * a * b * min(a, b)
        elif function is np.linalg.svd:
            a, b = args[0].shape
            Counted.flops += 20.0 * a * b * min(a, b)
        return super().__array_function__(function, types, args, options)
