// One step of GeoLoRA in JavaScript, real and complex: reads the vectors of a folder, writes U1, S1, V1 into another.
//
//     node step.mjs vectors/vectors outputs
//
// A matrix is a list of columns, a column a Float64Array: real and imaginary part in turn.  The names are those of the paper.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const column = (rows) => new Float64Array(2 * rows);
const zeros = (rows, cols) => Array.from({ length: cols }, () => column(rows));

// --- the vector -------------------------------------------------------------------------------------------------------

function number(text) { // "-0x1.8p+3", which no parser of JavaScript knows; at most 53 bits, so that nothing is rounded
  const [, sign, whole, part, exponent] = /^(-?)0x([0-9a-f])\.?([0-9a-f]*)p([+-]\d+)$/.exec(text);
  return (sign ? -1 : 1) * parseInt(whole + part, 16) * 2 ** (Number(exponent) - 4 * part.length);
}

function matrix({ re, im }) {
  const A = zeros(re.length, re[0].length);
  for (const [part, rows] of [re, im ?? []].entries())
    rows.forEach((row, i) => row.forEach((text, j) => { A[j][2 * i + part] = number(text); }));
  return A;
}

function plain(A, rows, isComplex) {
  const part = (which) => Array.from({ length: rows }, (_, i) => A.map((x) => x[2 * i + which]));
  return isComplex ? { re: part(0), im: part(1) } : { re: part(0) };
}

// --- a little linear algebra ------------------------------------------------------------------------------------------

function add(y, [a, b], x) { // y += (a + bi) x
  for (let k = 0; k < y.length; k += 2) {
    y[k] += a * x[k] - b * x[k + 1];
    y[k + 1] += a * x[k + 1] + b * x[k];
  }
  return y;
}

function inner(x, y) { // x^H y
  let [re, im] = [0, 0];
  for (let k = 0; k < x.length; k += 2) {
    re += x[k] * y[k] + x[k + 1] * y[k + 1];
    im += x[k] * y[k + 1] - x[k + 1] * y[k];
  }
  return [re, im];
}

function norm(x) { // scaled, so that nothing overflows or underflows
  const largest = x.reduce((most, entry) => Math.max(most, Math.abs(entry)), 0);
  return largest && largest * Math.sqrt(x.reduce((sum, entry) => sum + (entry / largest) ** 2, 0));
}

const product = (A, B) => B.map((b) => A.reduce((sum, a, k) => add(sum, [b[2 * k], b[2 * k + 1]], a), A[0].map(() => 0)));

function adjoint(A) {
  const B = zeros(A.length, A[0].length / 2);
  A.forEach((a, j) => B.forEach((b, i) => { b[2 * j] = a[2 * i]; b[2 * j + 1] = -a[2 * i + 1]; }));
  return B;
}

// Append x, made orthogonal to the columns of Q and normalised; false if nothing is left of it.
function append(Q, x) {
  let q = x;
  for (let pass = 0; pass < 4; pass++) {
    const size = norm(q); // the first pass may cancel all digits; the next ones repair what it leaves
    if (size === 0 || (pass > 1 && size < 0.5)) return false;
    q = q.map((entry) => entry / size);
    for (const b of pass < 3 ? Q : []) {
      const [re, im] = inner(b, q);
      add(q, [-re, -im], b);
    }
  }
  Q.push(q);
  return true;
}

// Append x, or some unit vector where x has nothing new.
function appendOrComplete(Q, x) {
  for (let i = 0, done = append(Q, x); !done; i++) done = append(Q, x.map((_, k) => Number(k === 2 * i)));
}

// One-sided Jacobi: A (at least as many rows as columns) = P diag(sigma) Q^H, falling; A is overwritten.
function svd(A) {
  const Q = zeros(A.length, A.length);
  Q.forEach((q, j) => { q[2 * j] = 1; });
  for (let sweep = 0, rotated = true; rotated && sweep < 60; sweep++) {
    rotated = false;
    for (let i = 0; i < A.length; i++)
      for (let j = i + 1; j < A.length; j++) {
        const [na, nb] = [norm(A[i]), norm(A[j])];
        if (na === 0 || nb === 0) continue;
        const [re, im] = inner(A[i].map((entry) => entry / na), A[j].map((entry) => entry / nb));
        const overlap = Math.hypot(re, im);
        if (overlap <= 1e-15) continue;
        rotated = true;
        const zeta = (nb / na - na / nb) / (2 * overlap);
        const t = (zeta >= 0 ? 1 : -1) / (Math.abs(zeta) + Math.hypot(1, zeta));
        const c = 1 / Math.hypot(1, t), s = c * t, phase = [re / overlap, -im / overlap];
        for (const B of [A, Q]) {
          const y = add(B[j].map(() => 0), phase, B[j]);
          [B[i], B[j]] = [add(B[i].map((x) => c * x), [-s, 0], y), add(y.map((x) => c * x), [s, 0], B[i])];
        }
      }
  }
  const order = A.map((_, j) => j).sort((i, j) => norm(A[j]) - norm(A[i])), P = [];
  for (const j of order) appendOrComplete(P, A[j]);
  return { P, sigma: order.map((j) => norm(A[j])), Q: order.map((j) => Q[j]) };
}

// --- Algorithm 1 ----------------------------------------------------------------

// Line 3: B S - rate * gradient.
const coefficientUpdate = (B, S, gradient, rate) =>
  product(B, S).map((k, j) => add(k, [-rate, 0], gradient[j]));

// Line 4: [B | B_tilde], B as it is.
function augmented(B, X) {
  const Q = [...B];
  for (const x of X) if (2 * Q.length < x.length) appendOrComplete(Q, x);
  return Q;
}

function step({ U, S, V, dK, dL, dS }, { rate, tau, theta, least, most }) {
  const r = S.length;
  const K_new = coefficientUpdate(U, S, dK, rate); // line 3
  const L_new = coefficientUpdate(V, adjoint(S), dL, rate);
  const S_new = S.map((s, j) => add(s.slice(), [-rate, 0], dS[j]));
  const U_hat = augmented(U, K_new), V_hat = augmented(V, L_new); // line 4
  const S_hat = zeros(U_hat.length, V_hat.length); // line 5
  product(adjoint(U_hat), K_new).forEach((k, j) => {
    S_hat[j].set(k);
    S_hat[j].set(S_new[j]);
  });
  adjoint(product(adjoint(V_hat), L_new)).forEach((l, j) => { if (j >= r) S_hat[j].set(l); });
  // line 6; the decomposition wants at least as many rows as columns
  const wide = U_hat.length < V_hat.length;
  const found = svd(wide ? adjoint(S_hat) : S_hat), { sigma } = found;
  const [P, Q] = wide ? [found.Q, found.P] : [found.P, found.Q];
  const tail = [...sigma, 0];
  for (let j = sigma.length - 1; j >= 0; j--) tail[j] = Math.hypot(tail[j + 1], sigma[j]);
  const threshold = theta ?? tau * tail[0];
  let rank = tail.findIndex((rest) => rest <= threshold);
  if (rank < 0) rank = sigma.length;
  rank = Math.min(Math.max(rank, least), most ?? sigma.length, sigma.length);
  const S1 = zeros(rank, rank);
  S1.forEach((s, j) => { s[2 * j] = sigma[j]; });
  return { U1: product(U_hat, P.slice(0, rank)), S1, V1: product(V_hat, Q.slice(0, rank)) };
}

const [vectors, outputs] = process.argv.slice(2);
mkdirSync(outputs, { recursive: true });
for (const name of readdirSync(vectors)) {
  const { id, dtype, m, n, inputs, parameters: p } = JSON.parse(readFileSync(join(vectors, name), "utf8"));
  const [rate, tau, theta] = [p.learning_rate, p.tau, p.theta].map((text) => (text === null ? null : number(text)));
  const given = Object.fromEntries(Object.entries(inputs).map(([key, X]) => [key, matrix(X)]));
  const { U1, S1, V1 } = step(given, { rate, tau, theta, least: p.min_rank, most: p.max_rank });
  const factors = Object.entries({ U1: [U1, m], S1: [S1, S1.length], V1: [V1, n] });
  const document = Object.fromEntries(factors.map(([key, [X, rows]]) => [key, plain(X, rows, dtype === "complex128")]));
  writeFileSync(join(outputs, name), JSON.stringify({ id, ...document }));
}
