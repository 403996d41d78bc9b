"""Write a script that runs a failing case without the kit: it needs NumPy and the backend, and has
all numbers bit by bit.
"""

from __future__ import annotations

import base64
import importlib
import os
import subprocess
import sys
import zlib
from collections.abc import Callable
from operator import attrgetter
from typing import Any, Unpack

import numpy as np

from geolora_ref.arrays import Matrix
from geolora_ref.oracle.cases.case import ConformanceCase
from geolora_ref.oracle.cases.own import Size
from geolora_ref.oracle.check import run_case, smallest_failing
from geolora_ref.oracle.judges.criteria import StepInputs, allowance
from geolora_ref.oracle.trial.choice import Choice
from geolora_ref.oracle.trial.conversion import ARGUMENTS, Conversion, layouts
from geolora_ref.oracle.trial.harness import Harness, Options
from geolora_ref.support.memory import memory_of

__all__ = [
    "NO_RESULT",
    "RUNNING",
    "adapters",
    "array_of",
    "ended",
    "import_of",
    "plain",
    "reproduction",
]

WIDTH = 120
NO_RESULT = "the step has no result to judge"
"""The line that a script prints for an exception."""
RUNNING = "GEOLORA_REF_REPRODUCES"
"""In the environment of a script that is tried: it imports the step's module, which might ask for it
again.
"""


def reproduction(
    step: Callable[..., Any],
    case_id: str,
    *,
    shapes: tuple[Size, ...] = (),
    **options: Unpack[Options],
) -> str:
    """The script for the case with this id, which the backend must fail; for a drawn case, for the
    smallest that fails.

    The script prints each finding next to the error that rounding allows, and ends with status 1 if
    something is wrong.  For a sequence it runs the failing step, for a stack the first problem.

    Before it is returned, the script is run in a process of its own.

    Raises like :func:`geolora_ref.oracle.check.check_step`, ``ValueError`` for a step that cannot be
    imported by its name, for an id that no case for these arrays has, for a case that passes, and
    where the script finds nothing wrong: some failures show only in the kit.
    """
    if RUNNING in os.environ:
        raise ValueError(
            "reproduce: expected no call while a module is imported, found one in the module of the step"
        )
    harness = Harness.of(step, **options)
    imported = import_of(harness.step, harness.name)
    case = _case(harness, case_id, shapes)
    if case.group == "fuzz":
        case = smallest_failing(harness, case)
    row, inputs = run_case(harness, case, last_asked=True)
    if row.outcome != "failed" or inputs is None:
        raise ValueError(
            f"reproduce: expected a case that fails, found that {case_id} passes if it is run alone"
        )
    text = _script(harness, f"{case_id}: {row.finding}", case.reason, inputs, case, imported)
    if problem := ended(text, judged=not row.error):
        raise ValueError(
            f"reproduce: expected a failure that shows without the kit, found that a script {problem} ({row.finding})"
        )
    return text


def import_of(step: Callable[..., Any], name: str) -> str:
    """The line of code that imports a step by its name, module:function.

    Raises ``ValueError`` if the name leads to no function, or to another one.
    """
    module, _, function = name.partition(":")
    try:
        found = (
            None if module == "__main__" else attrgetter(function)(importlib.import_module(module))
        )
    except (ImportError, AttributeError, TypeError, ValueError):
        found = None
    if found != step:
        raise ValueError(
            f"reproduce: expected a step that can be imported as module:function, found {name}"
        )
    begin, _, inner = function.partition(".")
    return (
        f"from {module} import {begin}\n\nstep = {function}"
        if inner
        else f"from {module} import {begin} as step"
    )


def ended(text: str, *, judged: bool) -> str:
    """The end of a script that does not show what the kit has found; '' if it does.  A result that
    the kit has ``judged`` has to be judged there, too.
    """
    done = subprocess.run(
        [sys.executable, "-"],
        input=text.encode(),
        capture_output=True,
        env=os.environ | {RUNNING: "1"},
    )
    if not done.returncode:
        return "finds nothing wrong"
    last = (done.stderr.decode(errors="replace").splitlines() or [""])[-1]
    shown = b"WRONG" in done.stdout and not (judged and NO_RESULT.encode() in done.stdout)
    return "" if shown else f"ends with {last!r}"


def _case(harness: Harness, name: str, shapes: tuple[Size, ...]) -> ConformanceCase:
    """The case with this name from the catalogue, from own sizes, or drawn again."""
    group, _, rest = name.partition("-")
    seed, _, number = rest.partition("-")
    drawn = group == "fuzz" and seed.isdecimal() and number.isdecimal()
    choice = Choice(
        shapes=shapes, fuzz=int(number) + 1 if drawn else 0, seed=int(seed) if drawn else 0
    )
    found = next((case for case in choice.cases(harness) if case.id == name), None)
    if found is None:
        raise ValueError(
            f"reproduce: expected the id of a case for {harness.conversion.dtype}, found {name!r}"
        )
    return found


def _script(
    harness: Harness, finding: str, reason: str, x: StepInputs, case: ConformanceCase, imported: str
) -> str:
    """The text of the script, in ASCII except for names and reasons."""
    conversion = harness.conversion
    arrays = [
        _placed(name, X, how)
        for name, X, how in zip(ARGUMENTS, x.arrays, layouts(case.layout), strict=True)
    ]
    parameters = ", ".join(f"{name}={value!r}" for name, value in x.parameters.items())
    m, n, r = len(x.U), len(x.V), len(x.S)
    allowed, orthonormal, of_form = allowance(x, harness.eps, harness.storage)
    one = "[None]" if harness.batched else ""
    gradients = f"lambda W: given(dense){one}" if harness.whole else f"dK{one}, dL{one}, dS{one}"
    call = f"step(U{one}, S{one}, V{one}, {gradients}, **parameters)"
    if harness.batched:
        call = f"first({call})"
    text = TEMPLATE.format(
        finding=plain(finding),
        reason=plain(reason),
        imported=imported,
        adapters=adapters(conversion),
        arrays="\n".join(arrays),
        parameters=f"dict({parameters})",
        call=call,
        rate=x.learning_rate,
        tau=x.tau or 0.0,
        theta=f"{x.tau!r} * norm(sigma)" if x.theta is None else repr(x.theta),
        least=x.min_rank,
        most=min(2 * r, m, n) if x.max_rank is None else min(2 * r, m, n, x.max_rank),
        columns=min(2 * r, m, n),
        no_result=NO_RESULT,
        allowed=allowed,
        orthonormal=orthonormal,
        form=FORM.replace("allowed", repr(of_form)) if harness.diagonal else "",
    )
    if harness.batched:
        text = text.replace("# --- the step", FIRST + "# --- the step")
    return text.replace("DENSE\n", _dense(x) if harness.whole else "")


def plain(text: str) -> str:
    """The text without characters that would end or change a docstring."""
    return text.replace("\\", "/").replace('"""', "'''")


def array_of(X: Matrix, more: str = "") -> str:
    """Code for an array in NumPy, its numbers bit by bit; ``more`` : further arguments of ``array``."""
    return f"array({X.shape}, {X.dtype.name!r},\n{_encoded(X)}{more})"


def _encoded(X: Matrix) -> str:
    """The bytes of an array as lines of text."""
    text = base64.b85encode(zlib.compress(np.ascontiguousarray(X).tobytes(), 9)).decode()
    lines = [text[k : k + WIDTH] for k in range(0, len(text), WIDTH)] or [""]
    return "\n".join(f"    {line!r}" for line in lines)


def _placed(name: str, X: Matrix, layout: str) -> str:
    """A line of code that rebuilds an argument with its memory layout."""
    stored = X.astype(np.float32) if X.dtype.name not in EXACT else X
    where = ""
    if layout == "lazy":
        return f"{name} = given({array_of(stored.conj())}).conj()"
    if layout == "negated":
        return f"{name} = torch._neg_view(given({array_of(-stored)}))"
    if layout != "rows":
        there = Conversion("numpy", stored.dtype.name).laid_out(stored, layout)
        memory, begin = memory_of(there)
        strides = tuple(stride // there.itemsize for stride in there.strides)
        where = f", place=({memory.size}, {begin}, {strides})"
    return f"{name} = given({array_of(stored, where)})"


def _dense(x: StepInputs) -> str:
    """Code for the gradient at W that a whole step is given, as far as the projections determine it."""
    return (
        "dense = wide(dK) @ wide(V).conj().T + wide(U) @ (wide(dL) - wide(V) @ (wide(V).conj().T @ wide(dL))).conj().T\n"
        "dense = dense.astype(back(U).dtype)\n"
    )


def adapters(conversion: Conversion) -> str:
    """Code that converts to the backend's library and back."""
    if conversion.array == "torch":
        return (
            "import torch\n\n\ndef given(X):\n"
            f"    return torch.from_numpy(X).to({(conversion.device or 'cpu')!r}, torch.{conversion.dtype})\n\n\n"
            "def back(X):\n    X = X.detach().cpu().resolve_conj()\n"
            "    return (X.float() if X.dtype == torch.bfloat16 else X).numpy()\n"
        )
    if conversion.array == "jax":
        return (
            "import jax\nimport jax.numpy\n\n"
            f"jax.config.update('jax_enable_x64', {conversion.dtype in ('float64', 'complex128')})\n\n\n"
            f"def given(X):\n    return jax.numpy.array(X, dtype={conversion.dtype!r})\n\n\n"
            "def back(X):\n    X = np.asarray(X)\n    return X if X.dtype.kind in 'fc' else X.astype('float32')\n"
        )
    if conversion.array == "cupy":
        return "import cupy\n\n\ndef given(X):\n    return cupy.asarray(X)\n\n\ndef back(X):\n    return cupy.asnumpy(X)\n"
    return "\n\ndef given(X):\n    return X\n\n\ndef back(X):\n    return np.asarray(X)\n"


EXACT = ("float16", "float32", "float64", "complex64", "complex128")
FIRST = '''def first(found):
    """(U1, S1, V1) of the first problem of a stack, or of a list of results."""
    return found[0] if isinstance(found, list) else [X[0] for X in found]


'''
FORM = """\
    "S1 off its diagonal": (norm(S1 - np.diag(np.diag(S1))), allowed),
    "S1 is complex or negative": (float(np.max([-np.diag(S1).real, np.abs(np.diag(S1).imag)])), allowed),
    "S1 is not in descending order": (float(np.max(np.diff(np.diag(S1).real), initial=0.0)), allowed),
"""
TEMPLATE = '''"""One step of GeoLoRA that goes wrong; needs NumPy and the backend.

{finding}

{reason}
"""

import base64
import sys
import zlib

import numpy as np

sys.path.insert(0, ".")
{imported}
{adapters}

def array(shape, dtype, text, place=None):
    """The numbers, in a memory of their own: its size, where they begin, and their strides."""
    X = np.frombuffer(zlib.decompress(base64.b85decode(text)), dtype).reshape(shape).copy()
    if place is None:
        return X
    size, begin, strides = place
    memory = np.full(size, np.nan, dtype)
    there = np.lib.stride_tricks.as_strided(memory[begin:], shape, [stride * X.itemsize for stride in strides])
    there[...] = X
    return there


def wide(X):
    """In extended precision where there is one."""
    X = back(X)
    return X.astype(np.clongdouble if np.iscomplexobj(X) else np.longdouble)


def H(X):
    return X.conj().T


def norm(X):
    largest = float(np.max(np.abs(X), initial=0.0))
    return largest * float(np.linalg.norm(in_double(X / largest))) if largest else 0.0


def in_double(X):
    return X.astype(complex if np.iscomplexobj(X) else float)


def off(B, X):
    return X - B @ (H(B) @ X)


# --- the question
{arrays}
parameters = {parameters}

# --- what it asks for: W_hat = W - rate * P(W) G, then the best approximation of the right rank
u, s, v, dk, dl, ds = (wide(X) for X in (U, S, V, dK, dL, dS))
rate = {rate!r}
W_hat = u @ (s - rate * ds) @ H(v) - rate * (off(u, dk) @ H(v) + u @ H(off(v, dl)))
sigma = np.linalg.svd(in_double(W_hat), compute_uv=False)
tails = [norm(sigma[k:]) for k in range({columns})] + [0.0]
DENSE
theta = {theta}
allowed, of_bases = {allowed!r}, {orthonormal!r}
slack = (1.0 + {tau!r}) * allowed
least, most = min({least!r}, {columns}), {most!r}
ranks = [min(max(sum(tail > theta + sign * slack for tail in tails), least), most) for sign in (1.0, -1.0)]

# --- the step
before = [back(X).copy() for X in (U, S, V, dK, dL, dS)]
try:
    U1, S1, V1 = (wide(X) for X in {call})
except Exception:
    print("{no_result}  WRONG")
    raise
D = W_hat - U1 @ S1 @ H(V1)
normal = off(U1, H(off(V1, H(D))))
found = {{
    "orthonormal U1": (norm(H(U1) @ U1 - np.eye(U1.shape[1])), of_bases),
    "orthonormal V1": (norm(H(V1) @ V1 - np.eye(V1.shape[1])), of_bases),
    "what is kept: ||P1 (W_hat - W1)||": (norm(D - normal), allowed),
    "what is cut: ||W_hat - W1|| - tail": (norm(D) - norm(sigma[len(S1) :]), allowed),
    "rank outside of %s to %s" % tuple(ranks): (float(not ranks[0] <= len(S1) <= ranks[1]), 0.0),
{form}    "arguments changed": (float(not all(np.array_equal(X, back(Y)) for X, Y in zip(before, (U, S, V, dK, dL, dS)))), 0.0),
}}
wrong = [name for name, (value, allows) in found.items() if not value <= allows]
print("rank %s, singular values of W_hat:" % len(S1), sigma[:8])
for name, (value, allows) in found.items():
    print("%-40s %9.2e, allowed %9.2e%s" % (name, value, allows, "  WRONG" if name in wrong else ""))
sys.exit(1 if wrong else 0)
'''
