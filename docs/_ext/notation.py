r"""``{notation}``: every symbol, its name in the code, its shape, and its published form.  The
names are checked to exist.
"""

from __future__ import annotations

from typing import NamedTuple

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

__all__ = ["SYMBOLS", "Symbol"]


class Symbol(NamedTuple):
    """A row: TeX, name in the code ("module:object" or "module:function(argument)"), shape,
    published symbol, meaning.
    """

    tex: str
    code: str
    shape: str
    paper: str
    meaning: str


SYMBOLS = (
    Symbol(
        r"W",
        "geolora_ref.lowrank:LowRank.full",
        r"m\times n",
        "W",
        "the adapter: the matrix that a gradient flow moves",
    ),
    Symbol(
        r"U, V",
        "geolora_ref.lowrank:LowRank.U",
        r"m\times r,\ n\times r",
        "U, V",
        "orthonormal bases of column and row space",
    ),
    Symbol(
        r"S",
        "geolora_ref.lowrank:LowRank.S",
        r"r\times r",
        "S",
        "coefficients; diagonal after a truncation",
    ),
    Symbol(r"r", "geolora_ref.lowrank:LowRank.rank", r"", "r", "the rank, at most $\\min(m,n)$"),
    Symbol(
        r"P(W)Z",
        "geolora_ref.lowrank:tangent_projection",
        r"m\times n",
        "P(W)Z",
        "projection onto the tangent space",
    ),
    Symbol(
        r"\hat P(W)Z",
        "verification.instruments.steppers:simultaneous_descent",
        r"m\times n",
        "",
        "how $W$ moves if $U, S, V$ descend at once along $Z$: for $S\\ne0$ no projection",
    ),
    Symbol(
        r"G",
        "geolora_ref.gradients:ProjectedGradients.from_dense(G)",
        r"m\times n",
        r"\nabla\mathcal L",
        "dense gradient",
    ),
    Symbol(
        r"\nabla_K\mathcal L",
        "geolora_ref.gradients:ProjectedGradients.dK",
        r"m\times r",
        r"\nabla_K\mathcal L",
        "$GV$",
    ),
    Symbol(
        r"\nabla_L\mathcal L",
        "geolora_ref.gradients:ProjectedGradients.dL",
        r"n\times r",
        r"\nabla_L\mathcal L",
        "$G^{\\mathsf H}U$",
    ),
    Symbol(
        r"\nabla_S\mathcal L",
        "geolora_ref.gradients:ProjectedGradients.dS",
        r"r\times r",
        r"\nabla_S\mathcal L",
        "$U^{\\mathsf H}GV$",
    ),
    Symbol(
        r"G_U",
        "geolora_ref.gradients:FactorGradients.dU",
        r"m\times r",
        r"\nabla_U\mathcal L",
        "$GVS^{\\mathsf H}$, as published",
    ),
    Symbol(
        r"G_V",
        "geolora_ref.gradients:FactorGradients.dV",
        r"n\times r",
        r"\nabla_V\mathcal L",
        "$G^{\\mathsf H}US$, as published",
    ),
    Symbol(
        r"\lambda",
        "geolora_ref.algorithm:geolora_step(learning_rate)",
        "",
        r"\lambda",
        "learning rate, the step size of the flow",
    ),
    Symbol(
        r"K, L",
        "geolora_ref.algorithm:coefficient_update",
        r"m\times r,\ n\times r",
        r"K, L",
        "$US$ and $VS^{\\mathsf H}$",
    ),
    Symbol(
        r"\operatorname{opt}",
        "geolora_ref.algorithm:optimizer_step",
        "",
        r"\texttt{optimizer_step}",
        "$P-\\lambda G$",
    ),
    Symbol(
        r"K_{\text{new}}",
        "geolora_ref.algorithm:AugmentedStep.K_new",
        r"m\times r",
        r"K^{\text{new}}",
        "$US$ after its step",
    ),
    Symbol(
        r"L_{\text{new}}",
        "geolora_ref.algorithm:AugmentedStep.L_new",
        r"n\times r",
        r"L^{\text{new}}",
        "$VS^{\\mathsf H}$ after its step",
    ),
    Symbol(
        r"S_{\text{new}}",
        "geolora_ref.algorithm:AugmentedStep.S_new",
        r"r\times r",
        r"S^{\text{new}}",
        "$S$ after its step",
    ),
    Symbol(
        r"\operatorname{aug}",
        "geolora_ref.algorithm:basis_augmentation",
        "",
        r"\texttt{basis_augmentation}",
        "the new columns of a QR",
    ),
    Symbol(
        r"\tilde U, \tilde V",
        "geolora_ref.algorithm:AugmentedStep.U_tilde",
        r"m\times k,\ n\times l",
        r"\tilde U, \tilde V",
        "new basis columns",
    ),
    Symbol(
        r"\hat U, \hat V",
        "geolora_ref.algorithm:AugmentedStep.U_hat",
        r"m\times(r+k)",
        r"\hat U, \hat V",
        "$[U\\mid\\tilde U]$, $[V\\mid\\tilde V]$",
    ),
    Symbol(
        r"\hat S",
        "geolora_ref.algorithm:AugmentedStep.S_hat",
        r"(r+k)\times(r+l)",
        r"\hat S",
        "augmented coefficients",
    ),
    Symbol(
        r"\hat W",
        "geolora_ref.algorithm:AugmentedStep.full",
        r"m\times n",
        r"\hat W",
        "the step before its truncation",
    ),
    Symbol(
        r"\sigma_i",
        "geolora_ref.algorithm:Truncation.singular_values",
        r"s",
        r"\sigma_i",
        "singular values of $\\hat S$, in decreasing order",
    ),
    Symbol(
        r"P, \Sigma, Q",
        "geolora_ref.algorithm:truncation",
        r"(r+k)\times s,\ s\times s,\ (r+l)\times s",
        r"P, \Sigma, Q",
        "singular value decomposition $\\hat S=P\\Sigma Q^{\\mathsf H}$, $s$ the smaller of the two sizes",
    ),
    Symbol(
        r"U_1, S_1, V_1",
        "geolora_ref.algorithm:Truncation.Y",
        r"m\times r_1,\ r_1\times r_1,\ n\times r_1",
        "",
        "the state after the step, $W_1=U_1S_1V_1^{\\mathsf H}$",
    ),
    Symbol(r"r_1", "geolora_ref.algorithm:choose_rank", "", "r_1", "the rank after the step"),
    Symbol(
        r"\tau",
        "geolora_ref.algorithm:truncation(tau)",
        "",
        r"\tau",
        "relative threshold, $\\vartheta=\\tau\\norm{\\hat S}$",
    ),
    Symbol(
        r"\vartheta",
        "geolora_ref.algorithm:Truncation.theta",
        "",
        r"\vartheta",
        "absolute threshold",
    ),
    Symbol(
        r"\vartheta_1",
        "geolora_ref.algorithm:Truncation.discarded",
        "",
        "",
        "norm of what was discarded, $\\norm{\\hat W-W_1}$",
    ),
    Symbol(
        r"r_{\min}, r_{\max}",
        "geolora_ref.algorithm:geolora_step(max_rank)",
        "",
        "",
        "limits of the new rank",
    ),
    Symbol(
        r"X^{\mathsf H}",
        "geolora_ref.arrays:H",
        r"b\times a",
        r"X^\top",
        "conjugate transpose; the transpose of real data",
    ),
    Symbol(
        r"\norm{X}",
        "geolora_ref.arrays:norm",
        "",
        r"\lVert X\rVert",
        "Frobenius norm; $\\norm{X}_2$ is the spectral norm",
    ),
    Symbol(
        r"\mathcal L", "geolora_ref.problems.problem:GradientFlow.loss", "", r"\mathcal L", "loss"
    ),
    Symbol(
        r"F",
        "geolora_ref.problems.problem:MatrixODE.field",
        r"m\times n",
        r"F",
        "right-hand side, $-\\nabla\\mathcal L$ for a gradient flow",
    ),
    Symbol(
        r"\beta, \ell",
        "geolora_ref.problems.problem:MatrixODE.lipschitz",
        "",
        "",
        "Lipschitz constant of $\\nabla\\mathcal L$, of $F$",
    ),
    Symbol(
        r"\mu",
        "geolora_ref.problems.problem:MatrixODE.one_sided_lipschitz",
        "",
        "",
        "one-sided Lipschitz constant of $F$",
    ),
    Symbol(
        r"\varepsilon",
        "verification.instruments.trajectory:Iterate.normal",
        "",
        r"\varepsilon",
        "size of the part of $F$ outside of the tangent space",
    ),
    Symbol(
        r"\eta",
        "geolora_ref.oracle.judges.criteria:judge",
        "",
        "",
        "what rounding may explain of an output: $c\\cdot\\text{eps}\\cdot s$",
    ),
    Symbol(
        r"\delta",
        "geolora_ref.oracle.judges.criteria:judge",
        "",
        "",
        "by how much the three given gradients contradict each other; in the error bound the distance $\\norm{W(0)-W_0}$ of the starts",
    ),
)


def link(code: str) -> str:
    """The name as a link into the API reference."""
    module, _, name = code.partition(":")
    function, bracket, argument = name.partition("(")
    target = f"{{py:obj}}`{function} <{module}.{function}>`"
    return f"{target} `{argument[:-1]}`" if bracket else target


class Notation(SphinxDirective):
    """The table."""

    def run(self) -> list[nodes.Node]:
        """One row a symbol."""
        rows = [
            f"| ${s.tex}$ | {link(s.code)} | {f'${s.shape}$' if s.shape else ''} | {f'${s.paper}$' if s.paper else ''} | {s.meaning} |"
            for s in SYMBOLS
        ]
        head = ["| symbol | code | shape | published | what it is |", "|---|---|---|---|---|"]
        return self.parse_text_to_nodes("\n".join(head + rows))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the directive."""
    app.add_directive("notation", Notation)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
