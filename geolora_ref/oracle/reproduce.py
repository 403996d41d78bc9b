"""Write a script that runs a failing case without the kit: it needs NumPy and the backend, and has
all numbers bit by bit.
"""

from __future__ import annotations

import base64
import importlib
import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
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

__all__ = ["NO_RESULT", "RUNNING", "beginning", "import_of", "reproduction", "tried"]

WIDTH = 90
NO_RESULT = "the step has no result to judge"
"""The line that a script prints for an exception."""
RUNNING = "GEOLORA_REF_REPRODUCES"
"""In the environment of a script that is tried: it imports the step's module, which might call
:func:`reproduction` again.
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

    Raises like :func:`geolora_ref.oracle.check.check_step`, ``ValueError`` for a step that cannot
    be imported by its name, for an id that no case for these arrays has, for a case that passes,
    and where the script finds nothing wrong: some failures show only in the kit.
    """
    if RUNNING in os.environ:
        raise ValueError("reproduce: expected no call while a module is imported")
    harness = Harness.of(step, **options)
    imported = import_of(harness.step, harness.name)
    case = _case(harness, case_id, shapes)
    if case.group == "fuzz":
        case = smallest_failing(harness, case)
    row, inputs = run_case(harness, case, last_asked=True)
    if row.outcome != "failed" or inputs is None:
        raise ValueError(
            f"reproduce: expected a case that fails, found that {case_id} passes alone"
        )
    text = _script(harness, f"{case_id}: {row.finding}", case.reason, inputs, case, imported)
    return tried(text, row.finding, judged=not row.error)


def import_of(step: Callable[..., Any], name: str) -> str:
    """The line of code that imports a step by its name, module:function.

    Raises ``ValueError`` if the name leads to no function, or to another one.
    """
    module, _, function = name.partition(":")
    try:
        found = attrgetter(function)(importlib.import_module(module))
    except (ImportError, AttributeError, TypeError, ValueError):
        found = None
    if found != step or module == "__main__":
        wanted = "a step that can be imported as module:function"
        raise ValueError(f"reproduce: expected {wanted}, found {name}")
    begin, _, inner = function.partition(".")
    called = f"\n\nstep = {function}" if inner else " as step"
    return f"from {module} import {begin}{called}"


def tried(text: str, finding: str, *, judged: bool) -> str:
    """The script, after a run in a process of its own; ``ValueError`` unless it shows the failure.

    A result that the kit has ``judged`` has to be judged by the script, too.
    """
    done = subprocess.run(
        [sys.executable, "-"],
        input=text.encode(),
        capture_output=True,
        env=os.environ | {RUNNING: "1"},
    )
    no_result = NO_RESULT.encode() in done.stdout
    if done.returncode and b"WRONG" in done.stdout and not (judged and no_result):
        return text
    last = (done.stderr.decode(errors="replace").splitlines() or [""])[-1]
    problem = f"ends with {last!r}" if done.returncode else "finds nothing wrong"
    wanted = "reproduce: expected a failure that shows without the kit"
    raise ValueError(f"{wanted}, found that a script {problem} ({finding})")


def _case(harness: Harness, name: str, shapes: tuple[Size, ...]) -> ConformanceCase:
    """The case with this name from the catalogue, from own sizes, or drawn again."""
    group, _, rest = name.partition("-")
    seed, _, number = rest.partition("-")
    drawn: dict[str, Any] = {}
    if group == "fuzz" and seed.isdecimal() and number.isdecimal():
        drawn = {"fuzz": int(number) + 1, "seed": int(seed)}
    for case in Choice(shapes=shapes, **drawn).cases(harness):
        if case.id == name:
            return case
    wanted = f"the id of a case for {harness.conversion.dtype}"
    raise ValueError(f"reproduce: expected {wanted}, found {name!r}")


def beginning(
    what: str, finding: str, reason: str, imported: str, to: Conversion, data: Mapping[str, Matrix]
) -> str:
    """The first part of a script: what is wrong, imports, conversions, and arrays by name."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **data)  # type: ignore[arg-type]
    text = base64.b85encode(buffer.getvalue()).decode()
    lines = [f"    {text[k : k + WIDTH]!r}" for k in range(0, len(text), WIDTH)]
    plain = "\n\n".join([what, finding, reason]).replace("\\", "/").replace('"""', "'''")
    return BEGINNING.format(
        plain=plain, imported=imported, conversion=_conversion(to), data="\n".join(lines)
    )


def _script(
    harness: Harness, finding: str, reason: str, x: StepInputs, case: ConformanceCase, imported: str
) -> str:
    """The text of the script, in ASCII except for names and reasons."""
    data, arrays = {}, []
    for name, X, layout in zip(ARGUMENTS, x.arrays, layouts(case.layout), strict=True):
        data[name], line = _placed(name, X, layout)
        arrays.append(line)
    m, n, r = len(x.U), len(x.V), len(x.S)
    columns = min(2 * r, m, n)
    allowed, orthonormal, of_form = allowance(x, harness.eps, harness.storage)
    one = "[None]" if harness.batched else ""
    gradients = f"lambda W: given(dense){one}" if harness.whole else f"dK{one}, dL{one}, dS{one}"
    call = f"step(U{one}, S{one}, V{one}, {gradients}, **parameters)"
    what = "One step of GeoLoRA that goes wrong; needs NumPy and the backend."
    return beginning(what, finding, reason, imported, harness.conversion, data) + STEP.format(
        arrays="\n".join(arrays),
        parameters=x.parameters,
        call=f"first({call})" if harness.batched else call,
        rate=x.learning_rate,
        tau=x.tau or 0.0,
        theta=f"{x.tau!r} * norm(sigma)" if x.theta is None else repr(x.theta),
        least=min(x.min_rank, columns),
        most=columns if x.max_rank is None else min(columns, x.max_rank),
        columns=columns,
        no_result=NO_RESULT,
        allowed=allowed,
        orthonormal=orthonormal,
        form=FORM.replace("allowed", repr(of_form)) if harness.diagonal else "",
    )


def _placed(name: str, X: Matrix, layout: str) -> tuple[Matrix, str]:
    """The memory of an argument, and the line of code that makes the argument of it."""
    stored = {"lazy": X.conj(), "negated": -X}.get(layout, X)
    how = "rows" if layout in ("lazy", "negated") else layout
    there = Conversion("numpy", X.dtype.name).laid_out(stored, how)
    memory, begin = memory_of(there)
    strides = tuple(stride // there.itemsize for stride in there.strides)
    code = f"placed({name!r}, {begin}, {there.shape}, {strides})"
    code = {"lazy": f"{code}.conj()", "negated": f"torch._neg_view({code})"}.get(layout, code)
    return memory, f"{name} = {code}"


def _conversion(to: Conversion) -> str:
    """Code that converts to the backend's library and back."""
    if to.array == "torch":
        return TORCH.format(device=to.device or "cpu", dtype=to.dtype)
    if to.array == "jax":
        return JAX.format(wide=to.dtype in ("float64", "complex128"), dtype=to.dtype)
    return CUPY if to.array == "cupy" else NUMPY


TORCH = """
import torch


def given(X):
    return torch.from_numpy(X).to({device!r}, torch.{dtype})


def back(X):
    X = X.detach().cpu().resolve_conj()
    return (X.float() if X.dtype == torch.bfloat16 else X).numpy()
"""
JAX = """
import jax
import jax.numpy

jax.config.update("jax_enable_x64", {wide})


def given(X):
    return jax.numpy.array(X, dtype={dtype!r})


def back(X):
    X = np.asarray(X)
    return X if X.dtype.kind in "fc" else X.astype("float32")
"""
CUPY = """
import cupy

given, back = cupy.asarray, cupy.asnumpy
"""
NUMPY = """

def given(X):
    return X


back = np.asarray
"""
BEGINNING = '''"""{plain}
"""

import base64
import io
import sys

import numpy as np

sys.path.insert(0, ".")
{imported}
{conversion}

def H(X):
    return X.conj().T


stored = np.load(io.BytesIO(base64.b85decode(
{data}
)))
'''
FORM = """\
    "S1 off its diagonal": (norm(S1 - np.diag(sigma1)), allowed),
    "S1 is complex or negative": (np.max([-sigma1.real, np.abs(sigma1.imag)]), allowed),
    "S1 is not in descending order": (np.max(np.diff(sigma1.real), initial=0.0), allowed),
"""
STEP = '''

def placed(name, begin, shape, strides):
    """An argument in a memory of its own, of which it may be a part."""
    X = stored[name]
    bytes_of = [stride * X.itemsize for stride in strides]
    return given(np.lib.stride_tricks.as_strided(X[begin:], shape, bytes_of))


def wide(X):
    """In extended precision where there is one."""
    X = back(X)
    return X.astype(np.clongdouble if np.iscomplexobj(X) else np.longdouble)


def in_double(X):
    return X.astype(complex if np.iscomplexobj(X) else float)


def norm(X):
    largest = float(np.max(np.abs(X), initial=0.0))
    return largest * float(np.linalg.norm(in_double(X / largest))) if largest else 0.0


def off(B, X):
    return X - B @ (H(B) @ X)


def first(found):
    """(U1, S1, V1) of the first problem of a stack, or of a list of results."""
    return found[0] if isinstance(found, list) else [X[0] for X in found]


# --- the arguments
{arrays}
parameters = {parameters}

# --- the right result: W_hat = W - rate * P(W) G, then its best approximation of the right rank
u, s, v, dk, dl, ds = (wide(X) for X in (U, S, V, dK, dL, dS))
rate = {rate!r}
dense = in_double(dk @ H(v) + u @ H(off(v, dl))).astype(back(U).dtype)  # a gradient at W
W_hat = u @ (s - rate * ds) @ H(v) - rate * (off(u, dk) @ H(v) + u @ H(off(v, dl)))
sigma = np.linalg.svd(in_double(W_hat), compute_uv=False)
tails = [norm(sigma[k:]) for k in range({columns})] + [0.0]
theta = {theta}
allowed, of_bases = {allowed!r}, {orthonormal!r}
slack = (1.0 + {tau!r}) * allowed
low, high = (sum(tail > theta + sign * slack for tail in tails) for sign in (1.0, -1.0))
low, high = (min(max(rank, {least!r}), {most!r}) for rank in (low, high))

# --- the step
before = [back(X).copy() for X in (U, S, V, dK, dL, dS)]
try:
    U1, S1, V1 = (wide(X) for X in {call})
except Exception:
    print("{no_result}  WRONG")
    raise
changed = not all(map(np.array_equal, before, map(back, (U, S, V, dK, dL, dS))))
sigma1 = np.diag(S1)
D = W_hat - U1 @ S1 @ H(V1)
normal = off(U1, H(off(V1, H(D))))
found = {{
    "orthonormal U1": (norm(H(U1) @ U1 - np.eye(U1.shape[1])), of_bases),
    "orthonormal V1": (norm(H(V1) @ V1 - np.eye(V1.shape[1])), of_bases),
    "what is kept: ||P1 (W_hat - W1)||": (norm(D - normal), allowed),
    "what is cut: ||W_hat - W1|| - tail": (norm(D) - norm(sigma[len(S1) :]), allowed),
    "rank outside of %s to %s" % (low, high): (float(not low <= len(S1) <= high), 0.0),
{form}    "arguments changed": (float(changed), 0.0),
}}
wrong = [name for name, (value, allows) in found.items() if not value <= allows]
print("rank %s, singular values of W_hat:" % len(S1), sigma[:8])
for name, (value, allows) in found.items():
    word = "  WRONG" if name in wrong else ""
    print("%-40s %9.2e, allowed %9.2e%s" % (name, value, allows, word))
sys.exit(1 if wrong else 0)
'''
