"""The claims, one file each, in the order of the theory."""

import re
from collections.abc import Iterable, Iterator, MutableMapping
from importlib import import_module
from types import ModuleType

from verification.claim import Claim
from verification.support.machine import ROOT

__all__ = ["CLAIMS", "HEADINGS"]

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
    "noisy_error_bound",
    "robustness",
    "curvature_tail",
    "rank_stall",
    "simultaneous_descent",
    "rank_recovery",
    "rank_budget",
    "directions",
    "first_directions",
    "memory",
    "unlagged",
    "stochastic_memory",
    "priced",
    "escape",
    "rate_floor",
    "default",
    "edge",
    "noisy_recovery",
    "parallel_is_geolora",
    "order",
    "local_error",
    "exactness",
    "integrator_robustness",
    "rank_behaviour",
    "conservation",
    "energy_descent",
    "nonexpansive",
    "linear_stability",
    "stiff_order",
    "accumulated_estimate",
    "soft_threshold",
    "significant_digits",
    "gradient_start",
    "golden_figures",
    "physics",
    "work_precision",
    "oracles",
    "problems",
)

PAGES = [*(ROOT / "docs" / "theory").glob("*.md"), ROOT / "docs" / "read" / "line_by_line.md"]
HEADINGS = {
    text
    for page in PAGES
    for text in re.findall("^##? (.+)$", page.read_text("utf-8"), re.MULTILINE)
}
"""The headings of the pages that show claims.  A claim may belong to none of them, and is listed as such."""


def checked(module: ModuleType) -> Claim:
    """The claim of a module.  Raises ``ValueError`` unless its id is the name of the file."""
    claim: Claim = module.CLAIM
    if claim.id != module.__name__.rpartition(".")[2].replace("_", "-"):
        raise ValueError(
            f"{module.__name__}: expected a claim that is named after its file, found {claim.id!r}"
        )
    return claim


class Claims(MutableMapping[str, Claim]):
    """The claims by their ids.  The file of a claim is imported at its first use."""

    def __init__(self, names: Iterable[str]) -> None:
        self._found: dict[str, Claim | None] = {name.replace("_", "-"): None for name in names}

    def __getitem__(self, claim: str) -> Claim:
        found = self._found[claim]
        if found is None:
            found = checked(import_module(f"{__name__}.{claim.replace('-', '_')}"))
            self._found[claim] = found
        return found

    def __setitem__(self, claim: str, added: Claim) -> None:
        self._found[claim] = added

    def __delitem__(self, claim: str) -> None:
        del self._found[claim]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)


CLAIMS = Claims(NAMES)
