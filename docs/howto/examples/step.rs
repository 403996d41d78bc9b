//! One step of GeoLoRA in Rust, real and complex: reads the vectors of a folder, writes U1, S1, V1 into another.
//!
//!     rustc -O --edition 2021 step.rs
//!     ./step vectors/vectors outputs
//!
//! A matrix is a list of columns.  The names are those of the paper.
#![allow(non_snake_case)]
use std::ops::{Add, Mul, Sub};
use std::{env, fs, path::Path};

#[derive(Clone, Copy, PartialEq)]
struct Num {
    re: f64,
    im: f64,
}

impl Num {
    fn conj(self) -> Num { Num { re: self.re, im: -self.im } }
    fn abs(self) -> f64 { self.re.hypot(self.im) }
    fn over(self, size: f64) -> Num { Num { re: self.re / size, im: self.im / size } }
}

fn real(re: f64) -> Num { Num { re, im: 0.0 } }

impl Add for Num {
    type Output = Num;
    fn add(self, other: Num) -> Num { Num { re: self.re + other.re, im: self.im + other.im } }
}

impl Sub for Num {
    type Output = Num;
    fn sub(self, other: Num) -> Num { Num { re: self.re - other.re, im: self.im - other.im } }
}

impl Mul for Num {
    type Output = Num;
    fn mul(self, other: Num) -> Num {
        Num { re: self.re * other.re - self.im * other.im, im: self.re * other.im + self.im * other.re }
    }
}

type Column = Vec<Num>;
type Matrix = Vec<Column>;

fn zeros(rows: usize, cols: usize) -> Matrix { vec![vec![real(0.0); rows]; cols] }

// --- the vector: keys are unique enough that no JSON library is needed ------------------------------------------------

fn after<'a>(text: &'a str, key: &str) -> &'a str {
    let quoted = format!("\"{key}\": ");
    let place = text.find(&quoted).unwrap_or_else(|| panic!("no {key}"));
    &text[place + quoted.len()..]
}

/// "-0x1.8p+3": at most 53 bits, so that nothing is rounded.
fn number(text: &str) -> f64 {
    let (sign, digits) = if let Some(rest) = text.strip_prefix('-') { (-1.0, rest) } else { (1.0, text) };
    let (mantissa, exponent) = digits.trim_start_matches("0x").split_once('p').expect("a hexadecimal number");
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let bits = u64::from_str_radix(&format!("{whole}{part}"), 16).expect("hexadecimal digits");
    let power = exponent.parse::<i32>().expect("an exponent") - 4 * part.len() as i32;
    sign * bits as f64 * 2f64.powi(power / 2) * 2f64.powi(power - power / 2) // 2^-1074 alone would be 0
}

/// A number, or nothing where there is null.
fn given(text: &str, key: &str) -> Option<f64> {
    after(text, key).strip_prefix('"').map(|rest| number(rest.split('"').next().expect("a closing quote")))
}

fn integer(text: &str, key: &str) -> Option<usize> {
    let rest = after(text, key);
    rest[..rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())].parse().ok()
}

fn matrix(text: &str, key: &str, rows: usize, cols: usize, is_complex: bool) -> Matrix {
    let mut A = zeros(rows, cols);
    let mut rest = after(text, key);
    for part in if is_complex { &["re", "im"][..] } else { &["re"][..] } {
        rest = after(rest, part);
        let mut words = rest.split('"').skip(1).step_by(2);
        for i in 0..rows {
            for column in A.iter_mut() {
                let x = number(words.next().expect("as many numbers as the matrix has"));
                if *part == "re" { column[i].re = x } else { column[i].im = x }
            }
        }
    }
    A
}

fn plain(A: &Matrix, rows: usize, is_complex: bool) -> String {
    let part = |of: fn(&Num) -> f64| {
        let row = |i: usize| A.iter().map(|x| format!("{:e}", of(&x[i]))).collect::<Vec<_>>().join(", ");
        (0..rows).map(|i| format!("[{}]", row(i))).collect::<Vec<_>>().join(", ")
    };
    let im = if is_complex { format!(", \"im\": [{}]", part(|x| x.im)) } else { String::new() };
    format!("{{\"re\": [{}]{im}}}", part(|x| x.re))
}

// --- a little linear algebra ------------------------------------------------------------------------------------------

/// y + a x
fn sum(y: &Column, a: Num, x: &Column) -> Column { y.iter().zip(x).map(|(&y, &x)| y + a * x).collect() }

fn times(a: f64, x: &Column) -> Column { x.iter().map(|&x| real(a) * x).collect() }

fn over(x: &Column, size: f64) -> Column { x.iter().map(|x| x.over(size)).collect() }

/// xᴴy
fn inner(x: &Column, y: &Column) -> Num { x.iter().zip(y).fold(real(0.0), |sum, (&x, &y)| sum + x.conj() * y) }

/// Scaled, so that nothing overflows or underflows.
fn norm(x: &Column) -> f64 {
    let largest = x.iter().fold(0f64, |most, x| most.max(x.abs()));
    if largest == 0.0 { 0.0 } else { largest * x.iter().map(|x| (x.abs() / largest).powi(2)).sum::<f64>().sqrt() }
}

fn product(A: &[Column], B: &[Column]) -> Matrix {
    let nothing = vec![real(0.0); A[0].len()];
    B.iter().map(|b| A.iter().zip(b).fold(nothing.clone(), |y, (a, &b)| sum(&y, b, a))).collect()
}

fn adjoint(A: &[Column]) -> Matrix { (0..A[0].len()).map(|i| A.iter().map(|a| a[i].conj()).collect()).collect() }

/// Append x, made orthogonal to the columns of Q and normalised; false if nothing is left of it.
fn append(Q: &mut Matrix, x: &Column) -> bool {
    let mut q = x.clone();
    for pass in 0..4 {
        let size = norm(&q); // the first pass may cancel all digits; the next ones repair what it leaves
        if size == 0.0 || (pass > 1 && size < 0.5) { return false }
        q = over(&q, size);
        if pass < 3 {
            for b in Q.iter() { q = sum(&q, real(0.0) - inner(b, &q), b) }
        }
    }
    Q.push(q);
    true
}

/// Append x, or some unit vector where x has nothing new.
fn append_or_complete(Q: &mut Matrix, x: &Column) {
    let mut done = append(Q, x);
    for i in 0..x.len() {
        if done { break }
        let mut unit = vec![real(0.0); x.len()];
        unit[i] = real(1.0);
        done = append(Q, &unit);
    }
}

/// One-sided Jacobi: A (at least as many rows as columns) = P diag(sigma) Qᴴ, falling.
fn svd(mut A: Matrix) -> (Matrix, Vec<f64>, Matrix) {
    let count = A.len();
    let mut Q = zeros(count, count);
    for j in 0..count { Q[j][j] = real(1.0) }
    for _ in 0..60 {
        let mut rotated = false;
        for i in 0..count {
            for j in i + 1..count {
                let (na, nb) = (norm(&A[i]), norm(&A[j]));
                if na == 0.0 || nb == 0.0 { continue }
                let overlap = inner(&over(&A[i], na), &over(&A[j], nb));
                if overlap.abs() <= 1e-15 { continue }
                rotated = true;
                let zeta = (nb / na - na / nb) / (2.0 * overlap.abs());
                let t = (if zeta >= 0.0 { 1.0 } else { -1.0 }) / (zeta.abs() + 1f64.hypot(zeta));
                let c = 1.0 / 1f64.hypot(t);
                let (s, phase) = (c * t, overlap.over(overlap.abs()).conj());
                for B in [&mut A, &mut Q] {
                    let y: Column = B[j].iter().map(|&b| phase * b).collect();
                    (B[i], B[j]) = (sum(&times(c, &B[i]), real(-s), &y), sum(&times(c, &y), real(s), &B[i]));
                }
            }
        }
        if !rotated { break }
    }
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by(|&i, &j| norm(&A[j]).total_cmp(&norm(&A[i])));
    let mut P = Matrix::new();
    for &j in &order { append_or_complete(&mut P, &A[j]) }
    (P, order.iter().map(|&j| norm(&A[j])).collect(), order.iter().map(|&j| Q[j].clone()).collect())
}

// --- Algorithm 1 ----------------------------------------------------------------

/// Line 3: B S - rate * gradient.
fn coefficient_update(B: &Matrix, S: &Matrix, gradient: &Matrix, rate: f64) -> Matrix {
    product(B, S).iter().zip(gradient).map(|(k, g)| sum(k, real(-rate), g)).collect()
}

/// Line 4: [B | B_tilde], B as it is.
fn augmented(B: &Matrix, X: &Matrix) -> Matrix {
    let mut Q = B.clone();
    for x in X {
        if Q.len() < x.len() { append_or_complete(&mut Q, x) }
    }
    Q
}

/// (U, S, V, dK, dL, dS), and the parameters; max_rank is at least min_rank.
fn step(
    [U, S, V, dK, dL, dS]: &[Matrix; 6],
    rate: f64, tau: Option<f64>, theta: Option<f64>, least: usize, most: Option<usize>,
) -> [Matrix; 3] {
    let r = S.len();
    let K_new = coefficient_update(U, S, dK, rate); // line 3
    let L_new = coefficient_update(V, &adjoint(S), dL, rate);
    let S_new: Matrix = S.iter().zip(dS).map(|(s, g)| sum(s, real(-rate), g)).collect();
    let (U_hat, V_hat) = (augmented(U, &K_new), augmented(V, &L_new)); // line 4
    let K_block = product(&adjoint(&U_hat), &K_new);
    let L_block = product(&adjoint(&V_hat), &L_new);
    let mut S_hat = zeros(U_hat.len(), V_hat.len()); // line 5
    for j in 0..V_hat.len() {
        for i in 0..U_hat.len() {
            S_hat[j][i] = match (i < r, j < r) {
                (true, true) => S_new[j][i],
                (false, true) => K_block[j][i],
                (true, false) => L_block[i][j].conj(),
                (false, false) => real(0.0),
            };
        }
    }
    // line 6; the decomposition wants at least as many rows as columns
    let (P, sigma, Q) = if U_hat.len() < V_hat.len() {
        let (Q, sigma, P) = svd(adjoint(&S_hat));
        (P, sigma, Q)
    } else {
        svd(S_hat)
    };
    let mut tail = vec![0.0; sigma.len() + 1];
    for j in (0..sigma.len()).rev() { tail[j] = sigma[j].hypot(tail[j + 1]) }
    let threshold = theta.unwrap_or_else(|| tau.expect("one of two thresholds") * tail[0]);
    let rank = tail.iter().position(|&rest| rest <= threshold).unwrap_or(sigma.len());
    let rank = rank.max(least).min(most.unwrap_or(sigma.len())).min(sigma.len());
    let mut S1 = zeros(rank, rank);
    for j in 0..rank { S1[j][j] = real(sigma[j]) }
    [product(&U_hat, &P[..rank]), S1, product(&V_hat, &Q[..rank])]
}

fn main() {
    let folders: Vec<String> = env::args().skip(1).collect();
    fs::create_dir_all(&folders[1]).expect("a folder for the outputs");
    for entry in fs::read_dir(&folders[0]).expect("a folder of vectors") {
        let path = entry.expect("a file").path();
        let text = fs::read_to_string(&path).expect("a vector");
        let [m, n, r] = ["m", "n", "r"].map(|key| integer(&text, key).expect("a size"));
        let is_complex = after(&text, "dtype").starts_with("\"complex128\"");
        let (inputs, parameters) = (after(&text, "inputs"), after(&text, "parameters"));
        let arrays = [("U", m), ("S", r), ("V", n), ("dK", m), ("dL", n), ("dS", r)]
            .map(|(key, rows)| matrix(inputs, key, rows, r, is_complex));
        let rate = given(parameters, "learning_rate").expect("a rate");
        let (tau, theta) = (given(parameters, "tau"), given(parameters, "theta"));
        let (least, most) = (integer(parameters, "min_rank").expect("a rank"), integer(parameters, "max_rank"));
        let [U1, S1, V1] = step(&arrays, rate, tau, theta, least, most);
        let rank = S1.len();
        let factors = [("U1", &U1, m), ("S1", &S1, rank), ("V1", &V1, n)]
            .map(|(key, X, rows)| format!("\"{key}\": {}", plain(X, rows, is_complex)));
        let id = after(&text, "id").split('"').nth(1).expect("an id");
        let output = Path::new(&folders[1]).join(path.file_name().expect("a name"));
        fs::write(output, format!("{{\"id\": \"{id}\", {}}}\n", factors.join(", "))).expect("room for an output");
    }
}
