r"""The lines of Algorithm 1 and Algorithm 2: formula, code, shapes, what is proved, what it costs.
Data only.

Which checks, claims and mutants guard a line is not written here: :func:`claims_of` and
:func:`mutants_of` ask the objects themselves.  A claim guards a line if one of its negative
controls breaks that line.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from geolora_ref.oracle.broken.mutants import MUTANTS, Mutant
from geolora_ref.oracle.broken.stages import Stages
from geolora_ref.oracle.cases.step_case import TRAPS, StepCase
from geolora_ref.oracle.judges.criteria import judge_stages
from verification.claim import Claim, Control
from verification.claims import CLAIMS

__all__ = ["LINES", "Anchor", "Line", "checks_of", "claims_of", "mutants_of"]


@dataclass(frozen=True)
class Anchor:
    """Where the code of a line is: a function or method, or one statement, from the text ``start``
    to the text ``end``.
    """

    file: str
    pyobject: str = ""
    start: str = ""
    end: str = ""


@dataclass(frozen=True)
class Line:
    """One line.

    ``id`` : "1" … "6" of Algorithm 1, or the name of a helper of Algorithm 2.
    ``caller`` : for a helper the line that calls it; both have the same guards.
    ``controls`` : pairs (claim, control) for the lines before the step begins, which no broken step
    can get wrong.
    ``formula``, ``shapes`` : TeX; shapes are parted by semicolons.
    ``proved``, ``cost`` : MyST.
    ``published`` : the formula as published, in TeX, where it differs; ``instead`` says in MyST
    what is done in its place.
    """

    id: str
    title: str
    formula: str
    shapes: str
    proved: str
    cost: str
    anchor: Anchor
    caller: str = ""
    controls: tuple[tuple[str, str], ...] = field(default=())
    published: str = ""
    instead: str = ""

    @property
    def number(self) -> int:
        """The line of Algorithm 1 that this is or belongs to."""
        return int(self.caller or self.id)


ALGORITHM = "geolora_ref/algorithm.py"

LINES = (
    Line(
        "1",
        "Forward",
        r"\mathcal L(W),\qquad W = U S V^{\mathsf H}",
        r"U\in\mathbb K^{m\times r}; S\in\mathbb K^{r\times r}; V\in\mathbb K^{n\times r}",
        "The loss and the gradient that follow from it belong together; the test problems prove it of themselves. The code here "
        "forms $W$, for problems that are given as matrices; an adapted layer does not "
        "({py:mod}`geolora_ref.nn.layers.functions`): $y = ((x V) S^{\\mathsf T}) U^{\\mathsf T}$.",
        "in a layer $r(m+n+r)$ products for each row of $x$, in place of $mn$",
        Anchor("geolora_ref/lowrank.py", "LowRank.full"),
        controls=(("problems", "wrong gradient"),),
    ),
    Line(
        "2",
        "One backward pass",
        r"""\begin{aligned}
        \nabla_K\mathcal L &= G V &&(G_U = G V S^{\mathsf H}\text{ as published})\\
        \nabla_L\mathcal L &= G^{\mathsf H}U &&(G_V = G^{\mathsf H}U S)\\
        \nabla_S\mathcal L &= U^{\mathsf H}G V &&(G_S = U^{\mathsf H} G V)
        \end{aligned}""",
        r"G=\nabla\mathcal L(W)\in\mathbb K^{m\times n}; \nabla_K\mathcal L\in\mathbb K^{m\times r}; "
        r"\nabla_L\mathcal L\in\mathbb K^{n\times r}; \nabla_S\mathcal L\in\mathbb K^{r\times r}",
        "All three come from one backward pass ({ref}`identities <thm-one-pass>`). We obtain $GV$ and $G^{\\mathsf H}U$ directly "
        "and never divide by $S$; the published route is {py:meth}`~geolora_ref.gradients.FactorGradients.projected`. The code "
        "here is given a dense $G$; an adapted layer does not form it ({py:mod}`geolora_ref.nn.layers.functions`).",
        "in a layer the matrix products of LoRA's backward pass and one of size $r\\times r$",
        Anchor("geolora_ref/gradients.py", "ProjectedGradients.from_dense"),
        controls=(("one-backward-pass", "missing-transpose"),),
    ),
    Line(
        "3",
        "Coefficient updates",
        r"""\begin{aligned}
        K_{\text{new}} &= \operatorname{opt}(U S,\; \nabla_K\mathcal L,\; \lambda)\\
        L_{\text{new}} &= \operatorname{opt}(V S^{\mathsf H},\; \nabla_L\mathcal L,\; \lambda)\\
        S_{\text{new}} &= \operatorname{opt}(S,\; \nabla_S\mathcal L,\; \lambda)
        \end{aligned}""",
        r"K_{\text{new}}\in\mathbb K^{m\times r}; L_{\text{new}}\in\mathbb K^{n\times r}; S_{\text{new}}\in\mathbb K^{r\times r}",
        "The three are independent of each other, so they may run at the same time. Each is one explicit Euler step of the three "
        "sub-equations of the parallel integrator {cite}`CKL24`.",
        "$r^2(m+n)$ products",
        Anchor(ALGORITHM, "coefficient_update"),
        published=r"""\begin{aligned}
        K_{\text{new}} &= \operatorname{opt}(U S,\; G_U S^{-\mathsf T},\; \lambda)\\
        L_{\text{new}} &= \operatorname{opt}(V S^{\mathsf T},\; G_V S^{-1},\; \lambda)\\
        S_{\text{new}} &= \operatorname{opt}(S,\; G_S,\; \lambda)
        \end{aligned}""",
        instead="The same for invertible $S$ ({ref}`thm-one-pass`); the code takes $\\nabla_K$ and $\\nabla_L$ as line 2 has them.",
    ),
    Line(
        "opt",
        "Helper: the optimizer step",
        r"\operatorname{opt}(P, G, \lambda) = P - \lambda G",
        r"P, G\in\mathbb K^{a\times b}",
        "Plain gradient descent is the case that the guarantees are about. Momentum and Adam enter through the direction "
        "({ref}`moving bases <thm-moments>`).",
        "$ab$",
        Anchor(ALGORITHM, "optimizer_step"),
        caller="3",
    ),
    Line(
        "4",
        "Basis augmentation",
        r"\tilde U = \operatorname{aug}(U, K_{\text{new}}),\qquad \tilde V = \operatorname{aug}(V, L_{\text{new}})",
        r"\tilde U\in\mathbb K^{m\times k}; \tilde V\in\mathbb K^{n\times l}; k=\min(r, m-r); l=\min(r, n-r)",
        "The augmented bases contain the old ones and the updates, so nothing of $W$ and nothing of the tangent direction is lost "
        "({ref}`the exact step <thm-tangent-step>`).",
        "two QR decompositions, $\\approx 8 r^2(m+n)$",
        Anchor(
            ALGORITHM,
            start="U_tilde, V_tilde = basis_augmentation(U, K_new)",
            end="U_tilde, V_tilde = basis_augmentation(U, K_new)",
        ),
    ),
    Line(
        "aug",
        "Helper: augmentation",
        r"[\,B \mid \tilde B\,] = \operatorname{qr}([\,B \mid X\,])",
        r"B, X\in\mathbb K^{m\times r}; \tilde B\in\mathbb K^{m\times k}",
        r"$B^{\mathsf H}\tilde B = 0$, $\tilde B^{\mathsf H}\tilde B = I$, and the range of $[B\mid\tilde B]$ contains that of $X$. QR may turn the signs of the first $r$ columns: the caller keeps its own $B$.",
        "one Householder QR of $m\\times 2r$; orthogonal to rounding however small the new part is",
        Anchor(ALGORITHM, "basis_augmentation"),
        caller="4",
    ),
    Line(
        "5",
        "Assemble the augmented coefficients",
        r"\hat S = \begin{bmatrix} S_{\text{new}} & L_{\text{new}}^{\mathsf H}\tilde V\\ \tilde U^{\mathsf H}K_{\text{new}} & 0\end{bmatrix}",
        r"\hat S\in\mathbb K^{(r+k)\times(r+l)}",
        r"$\hat W = [U\mid\tilde U]\,\hat S\,[V\mid\tilde V]^{\mathsf H}$ is exactly $W - \lambda P(W)G$. The zero block is what makes the step "
        "parallel, and what can make the rank {ref}`stall <thm-stall>`.",
        "$r^2(m+n)$ products",
        Anchor(ALGORITHM, "assemble"),
    ),
    Line(
        "6",
        "Truncation",
        r"(U, S, V) \leftarrow \operatorname{trunc}\bigl(\hat S, [U\mid\tilde U], [V\mid\tilde V], \tau\bigr)",
        r"U_1\in\mathbb K^{m\times r_1}; S_1\in\mathbb R^{r_1\times r_1}; V_1\in\mathbb K^{n\times r_1}",
        "The new state is a best approximation of its rank, and what was discarded is known and returned "
        "({ref}`truncation <thm-truncation>`).",
        "see the helper",
        Anchor(ALGORITHM, start="cut = truncation(", end="cut = truncation("),
    ),
    Line(
        "trunc",
        "Helper: truncation",
        r"""\begin{aligned}
        \hat S &= P\Sigma Q^{\mathsf H},\quad \vartheta = \tau\norm{\Sigma}\\
        r_1 &= \min\Bigl\{r' : \bigl(\textstyle\sum_{i>r'}\sigma_i^2\bigr)^{1/2}\le\vartheta\Bigr\}\text{, clipped}\\
        U_1 &= \hat U P_{:,1:r_1},\quad V_1 = \hat V Q_{:,1:r_1}\\
        S_1 &= \operatorname{diag}(\sigma_1,\dots,\sigma_{r_1})
        \end{aligned}""",
        r"\hat U\in\mathbb K^{m\times p}; \hat V\in\mathbb K^{n\times q}; \hat S\in\mathbb K^{p\times q}",
        r"$\norm{\hat W - W_1} = (\sum_{i>r_1}\sigma_i^2)^{1/2}$, at most $\vartheta$ unless `max_rank` clipped the rank.",
        "one SVD of $2r\\times 2r$, $\\approx 11\\,(2r)^3$ products, and $2 r r_1(m+n)$",
        Anchor(ALGORITHM, "truncation"),
        caller="6",
        published=r"S^{-1}\leftarrow\operatorname{diag}(1/\sigma_1,\dots,1/\sigma_{r_1})",
        instead="$S^{-1}$ is not carried along here: {doc}`paper_and_code`. An absolute $\\vartheta$ and limits of the rank are further arguments.",
    ),
)


def mutants_of(line: Line) -> list[Mutant]:
    """The broken steps of the oracle's catalogue in which this line is wrong."""
    return [mutant for mutant in MUTANTS.values() if mutant.line == line.number]


def _broken_line(control: Control) -> int | None:
    """The line that a control breaks, if it is a mutant of the catalogue."""
    names = [part for part in control.id.split(": ") if part in MUTANTS]
    return MUTANTS[names[0]].line if names else None


def claims_of(line: Line) -> list[tuple[Claim, list[Control]]]:
    """The claims that guard a line, each with the negative controls that break this line."""
    found = []
    for claim in CLAIMS.values():
        chosen = [
            c
            for c in claim.controls
            if _broken_line(c) == line.number or (claim.id, c.id) in line.controls
        ]
        if chosen:
            found.append((claim, chosen))
    return found


def checks_of(line: Line) -> list[str]:
    """The stage criteria that name this line, as the oracle itself lists them."""
    case = StepCase.build(TRAPS["complex and dense"])
    inputs = case.inputs()
    run = Stages().run(*inputs.arrays, **inputs.parameters)
    verdicts = judge_stages(
        inputs, {name: run[name] for name in run if name != "output"}, run["output"]
    )
    verdict = verdicts.get(f"line {line.number}")
    return [] if verdict is None else list(verdict.ratios)
