"""The claims, one file each, in the order of the theory."""

import re
from importlib import import_module
from types import ModuleType

from verification.claim import Claim
from verification.machine import ROOT

__all__ = ["CLAIMS"]

NAMES = (
    "one_backward_pass",
    "tangent_step",
    "truncation",
    "equivariance",
    "limits",
    "descent",
    "convergence",
    "stochastic",
    "error_bound",
    "robustness",
    "curvature_tail",
    "rank_stall",
    "simultaneous_descent",
    "rank_recovery",
    "rank_budget",
    "directions",
    "first_directions",
    "memory",
    "parallel_is_geolora",
    "order",
    "local_error",
    "exactness",
    "integrator_robustness",
    "rank_behaviour",
    "conservation",
    "energy_descent",
    "golden_figures",
    "physics",
    "work_precision",
    "oracles",
    "problems",
)

BIBLIOGRAPHY = re.findall(r"^@\w+\{(\w+),", (ROOT / "docs" / "references.bib").read_text("utf-8"), re.MULTILINE)

THEORY = ROOT / "docs" / "theory"
HEADINGS = {text for page in THEORY.glob("*.md") for text in re.findall("^##? (.+)$", page.read_text("utf-8"), re.MULTILINE)}
"""The sections of the theory, by their names."""


def checked(module: ModuleType) -> Claim:
    """The claim of a file, named after it, of a section of the theory, with sources of the bibliography; else ``ValueError``."""
    claim: Claim = module.CLAIM
    if claim.id != module.__name__.rpartition(".")[2].replace("_", "-"):
        raise ValueError(f"{module.__name__}: expected a claim that is named after its file, found {claim.id!r}")
    if claim.section not in HEADINGS:
        raise ValueError(f"{claim.id}: expected a heading of docs/theory as its section, found {claim.section!r}")
    if unknown := sorted(set(claim.sources) - set(BIBLIOGRAPHY)):
        raise ValueError(f"{claim.id}: expected sources in docs/references.bib, found {', '.join(unknown)}")
    return claim


CLAIMS: dict[str, Claim] = {claim.id: claim for claim in (checked(import_module(f"{__name__}.{name}")) for name in NAMES)}
