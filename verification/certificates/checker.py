"""Follow certificates without the code that made them: ``python checker.py FILE...`` needs
python-flint alone.

All matrices are formed in 2000 bits from the doubles in the file.  Bounds of singular values are
checked by counting the negative pivots of MᵀM − x²I (Sylvester), without an SVD.  A certificate is
followed iff every outcome that it claims comes out here.  Exit status 0: all are followed; 1: one
is not; 2: there is nothing to follow, in one of the files or because none is given.
"""

import json
import sys
from pathlib import Path
from typing import Any

from flint import arb, arb_mat, ctx


def array(rows: Any) -> Any:
    """A matrix of doubles in hexadecimal, exactly."""
    return arb_mat([[arb(float.fromhex(x)) for x in row] for row in rows])


def square(M: Any) -> Any:
    """‖M‖²."""
    return sum((x**2 for x in M.entries()), arb(0))


def eye(k: int) -> Any:
    """The identity."""
    return arb_mat(k, k, [int(i == j) for i in range(k) for j in range(k)])


def projector(B: Any) -> Any:
    """The exact orthogonal projector onto range(B)."""
    return B * (B.transpose() * B).inv() * B.transpose()


def below(M: Any, x: Any) -> int:
    """How many singular values of M are below x; ArithmeticError if the sign of a pivot is open."""
    gram = M.transpose() * M if M.ncols() <= M.nrows() else M * M.transpose()
    G = (gram - x**2 * eye(gram.nrows())).tolist()
    for k in range(len(G)):
        if G[k][k].contains(0):
            raise ArithmeticError("a pivot has no sign")
        for i in range(k + 1, len(G)):
            f = G[i][k] / G[k][k]
            G[i] = [a - f * b for a, b in zip(G[i], G[k], strict=True)]
    return sum(bool(G[k][k] < 0) for k in range(len(G)))


def values(M: Any, bounds: Any) -> Any:
    """Singular values as balls, a hair wider than the certificate's bounds; ArithmeticError if
    these bounds are not proved.
    """
    p, hair, balls = min(M.nrows(), M.ncols()), arb(2) ** -300, []
    if len(bounds) != p:
        raise ArithmeticError(f"expected bounds of {p} singular values, found {len(bounds)}")
    for k, ((a, i), (b, j)) in enumerate(bounds):
        low, high = (arb(a) * arb(2) ** i - hair).max(arb(0)), arb(b) * arb(2) ** j + hair
        if (low > 0 and below(M, low) > p - 1 - k) or below(M, high) < p - k:
            raise ArithmeticError(f"singular value {k + 1} is not proved to be within its bounds")
        balls.append(low.union(high))
    return balls


def tail(sigma: Any) -> Any:
    """(Σσ²)^{1/2}, as a ball.  A σ from 0 on has a ball that reaches a little below 0, whose square
    would be no lower bound.
    """
    return (
        sum((x.lower().max(arb()) ** 2 for x in sigma), arb())
        .sqrt()
        .union(sum((x.upper() ** 2 for x in sigma), arb()).sqrt())
    )


def statements(d: Any, bounds: Any) -> Any:
    """Name, left and right of every statement that says something about the output."""
    U, S, V, A, X, U1, S1, V1, Z, Z1 = (
        array(d[k]) for k in ["U", "S", "V", "A", "X", "U1", "S1", "V1", "Z", "projection"]
    )
    d1, d2 = array([d["d1"]]).entries(), array([d["d2"]]).entries()
    rate, tau, theta = array([[d[k] or "0" for k in ("learning_rate", "tau", "theta")]]).entries()
    (m, n), r, q = (A.nrows(), A.ncols()), S.nrows(), S1.nrows()
    most, unit = min(2 * r, m, n), 30 * 4 * arb(m + n).sqrt() / 2**52
    least, cap = min(d["min_rank"], most), min(most, d["max_rank"] or most)

    def weighted(M: Any, weight: Any) -> Any:
        return arb_mat(
            [[weight(a * b) * M[i, j] for j, b in enumerate(d2)] for i, a in enumerate(d1)]
        )

    (PU, NU), (PV, NV) = ((projector(B), eye(B.nrows()) - projector(B)) for B in (U, V))
    W, W1 = U * S * V.transpose(), U1 * S1 * V1.transpose()
    G = weighted(W - A, lambda h: h)
    hat, normal, scale = (
        W - rate * (G - NU * G * NV),
        NU * G * NV,
        unit * (square(W).sqrt() + rate * square(G).sqrt()),
    )
    yield from (
        (f"orthonormal {k}", square(B.transpose() * B - eye(q)).sqrt(), unit)
        for k, B in (("U", U1), ("V", V1))
    )
    wrong = [S1[i, j] for i in range(q) for j in range(q) if i != j]
    wrong += [(S1[i + 1, i + 1] - S1[i, i]).max(arb(0)) for i in range(q - 1)] + [
        (-S1[q - 1, q - 1]).max(arb(0))
    ]
    yield "diagonal core", sum((x**2 for x in wrong), arb(0)).sqrt(), scale
    yield "rank in range", arb(max(least - q, q - cap, 0)), arb(0)
    yield "projection", square(Z1 - Z + NU * Z * NV).sqrt(), unit * square(Z).sqrt()
    yield "projection idempotent", square(NU * Z1 * NV).sqrt(), unit * square(Z).sqrt()
    yield "projection orthogonal", abs((Z1.transpose() * (Z - Z1)).trace()), unit * square(Z)
    if d["augmented"] is not None:
        P, C, Q = (array(M) for M in d["augmented"])
        yield "tangent step", square(P * C * Q.transpose() - hat).sqrt(), scale
    sigma = values(hat, bounds["W_hat"])
    lost, theta = tail(sigma[q:]), tau * square(hat).sqrt() if d["theta"] is None else theta
    if q != cap:
        yield "rank not too low", lost, theta + scale
    if q != least:
        yield "rank not too high", theta - scale, tail(sigma[q - 1 :])
    beta, decrease = max(d1) * max(d2), square(G) - square(normal)
    losses = [square(weighted(Y - A, lambda h: h.sqrt())) / 2 for Y in (W, W1)]
    price = square(weighted(hat - A, lambda h: h)).sqrt() * lost + beta * lost**2 / 2
    yield "descent", losses[1], losses[0] - rate * (1 - beta * rate / 2) * decrease + price
    local = rate * square(normal).sqrt() + beta * rate**2 * square(G).sqrt() / 2 + lost
    spread = (-min(d1) * min(d2) * rate).exp() * square(X - W).sqrt()
    yield (
        "error recursion",
        square(A + weighted(X - A, lambda h: (-rate * h).exp()) - W1).sqrt(),
        spread + local,
    )
    if q >= r and most > r:
        core, cross = (
            values(PU * (W - rate * G) * PV, bounds["core"])[r - 1],
            values(PU * G * NV, bounds["cross"])[0],
        )
        yield (
            "tail bound",
            square(hat - W1).sqrt(),
            rate**2 * square(NU * G * PV).sqrt() * cross / core + scale,
        )
    D, smallest = hat - W1, values(W1, bounds["W1"])[q - 1]
    N = (eye(m) - projector(U1)) * D * (eye(n) - projector(V1))
    excess = sum(((x - smallest).max(arb(0)) ** 2 for x in values(N, bounds["N"])), arb(0))
    yield "conformance", (square(D - N) + excess).sqrt(), scale


def objections(certificate: Any) -> list[str]:
    """Every claim of a certificate that does not follow; empty if all do."""
    d, claims, found = certificate["data"], dict(certificate.get("statements", {})), []
    if "unusable" in certificate:
        m, n, r = len(d["A"]), len(d["A"][0]), len(d["S1"])
        fits = all(
            (len(d[X]), {*map(len, d[X])}) == (k, {r}) for X, k in (("U1", m), ("S1", r), ("V1", n))
        ) and r <= min(m, n)
        return (
            ["the output is usable"]
            if fits and all(x.is_finite() for X in "USV" for x in array(d[X + "1"]).entries())
            else []
        )
    with ctx.workprec(2000):
        try:
            for name, left, right in statements(d, certificate["bounds"]):
                claim = claims.pop(name, {"outcome": "missing"})["outcome"]
                proved = (
                    "certified" if left <= right else "refuted" if left > right else "undecided"
                )
                found += (
                    []
                    if claim in (proved, "undecided")
                    else [f"{name}: claimed {claim}, found {proved}"]
                )
            return found + [
                f"{name}: it says nothing"
                for name, claim in claims.items()
                if claim["outcome"] != "void"
            ]
        except (ArithmeticError, KeyError) as error:
            return found + [
                f"{name}: {error}"
                for name, claim in claims.items()
                if claim["outcome"] in ("certified", "refuted")
            ]


if __name__ == "__main__":
    files = {
        path: json.loads(Path(path).read_text("utf-8"))["certificates"] for path in sys.argv[1:]
    }
    wrong = [
        f"{path}: {c['data']['id']}: {line}"
        for path, some in files.items()
        for c in some
        for line in objections(c)
    ]
    empty = [
        f"{path}: expected certificates, found none"
        for path, some in (files or {"FILE...": []}).items()
        if not some
    ]
    print(
        "\n".join(
            [
                *wrong,
                *empty,
                f"{sum(map(len, files.values()))} certificates, {len(wrong)} objections",
            ]
        )
    )
    sys.exit(2 if empty else bool(wrong))
