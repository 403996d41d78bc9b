(* Bias and noise from step to step (docs/theory/error_bound.md and directions.md, "Stochastic gradients with a
   memory"; docs/theory/priced.md, "Momentum tied to the rate").

   e, h and b stand for root mean squares.  Assumed is what one step gives: the noise is orthogonal to the rest in
   the mean, so that h^2 <= (c e + p)^2 + z^2, and truncation adds theta.  The expectation stays on paper. *)
From mathcomp Require Import all_ssreflect all_algebra ring lra.
From GeoLoRA Require Import setting error_recursion.
Import Order.TTheory GRing.Theory Num.Theory.

Section BiasAndNoise.
Variables (R : realFieldType) (c p z theta e h a b : nat -> R).
Hypotheses (c_ge0 : forall k, 0 <= c k) (p_ge0 : forall k, 0 <= p k) (theta_ge0 : forall k, 0 <= theta k).
Hypotheses (e_ge0 : forall k, 0 <= e k) (a_ge0 : 0 <= a 0) (b_ge0 : forall k, 0 <= b k).
Hypothesis noisy_step : forall k, h k ^+ 2 <= (c k * e k + p k) ^+ 2 + z k ^+ 2.
Hypothesis truncated : forall k, e k.+1 <= h k + theta k.
Hypothesis bias : forall k, a k.+1 = c k * a k + p k + theta k.
Hypothesis noise : forall k, b k.+1 ^+ 2 = c k ^+ 2 * b k ^+ 2 + z k ^+ 2.

Theorem bias_and_noise : e 0%N <= a 0%N + b 0%N -> forall k, e k <= a k + b k.
Proof.
move=> start; suff H k : 0 <= a k /\ e k <= a k + b k by move=> k; have [] := H k.
elim: k => [|k [a0 IH]]; first by split.
have x0 : 0 <= c k * a k + p k by rewrite addr_ge0 ?mulr_ge0.
split; first by rewrite bias addr_ge0.
have y0 : 0 <= c k * b k by rewrite mulr_ge0.
have wy : c k * b k <= b k.+1 by rewrite -(@ler_pXn2r _ 2) ?nnegrE // noise exprMn lerDl sqr_ge0.
have steady : c k * e k + p k <= c k * a k + p k + c k * b k by have := ler_wpM2l (c_ge0 k) IH; lra.
have s0 : 0 <= c k * e k + p k by rewrite addr_ge0 ?mulr_ge0.
have squares : (c k * e k + p k) ^+ 2 <= (c k * a k + p k + c k * b k) ^+ 2.
  by rewrite ler_pXn2r ?nnegrE //; apply: le_trans steady.
have := noisy_step k; have := noise k; have := truncated k; rewrite bias => cut w2 h2.
suff : h k <= c k * a k + p k + b k.+1 by lra.
rewrite leNgt; apply/negP => above.
have right : 0 <= c k * a k + p k + b k.+1 by rewrite addr_ge0.
have : (c k * a k + p k + b k.+1) ^+ 2 < h k ^+ 2
  by rewrite ltr_pXn2r ?nnegrE //; exact: le_trans right (ltW above).
have := ler_wpM2l x0 wy; rewrite !sqrrD exprMn in squares *; lra.
Qed.
End BiasAndNoise.

(* Constant factors, b 0 = 0: the term of the noise in closed form. *)
Theorem noise_in_closed_form (R : realFieldType) (q z : R) (b : nat -> R) : b 0%N = 0 ->
  (forall k, b k.+1 ^+ 2 = q ^+ 2 * b k ^+ 2 + z ^+ 2) -> forall k, b k ^+ 2 = z ^+ 2 * \sum_(j < k) (q ^+ 2) ^+ j.
Proof.
move=> b0 step; elim=> [|k IH]; first by rewrite big_ord0 b0 expr0n /= mulr0.
have -> : \sum_(j < k.+1) (q ^+ 2) ^+ j = 1 + q ^+ 2 * \sum_(j < k) (q ^+ 2) ^+ j.
  by rewrite big_ord_recl expr0 mulr_sumr; congr (_ + _); apply: eq_bigr => j _; rewrite [LHS]exprS.
by rewrite step IH; ring.
Qed.

(* The mean of the memory has the weights m t = mu (1 - mu^t) / (1 - mu^(t + 1)) of the past: how stale it is, and
   how much noise it averages. *)
Section Weights.
Variables (R : realFieldType) (mu q s : R).
Hypotheses (mu_ge0 : 0 <= mu) (mu_lt1 : mu < 1) (q_ge0 : 0 <= q).
Definition weight t := mu * (1 - mu ^+ t) / (1 - mu ^+ t.+1).
Lemma below t : mu ^+ t.+1 < 1. Proof. by rewrite exprn_ilt1. Qed.
Lemma weight_le t : weight t <= mu.
Proof.
rewrite /weight ler_pdivrMr ?subr_gt0 ?below //; apply: ler_wpM2l => //.
by rewrite exprS lerD2l lerN2 -[leRHS]mul1r ler_wpM2r ?exprn_ge0 // ltW.
Qed.
Lemma weight_ge0 t : 0 <= weight t.
Proof. by rewrite divr_ge0 ?mulr_ge0 ?subr_ge0 ?(ltW (below _)) ?exprn_ile1 // ltW. Qed.

Theorem bias_of_the_memory (a : nat -> R) : a 0%N = 0 -> (forall t, a t.+1 <= weight t.+1 * (a t + q)) ->
  forall t, a t <= mu / (1 - mu) * q.
Proof.
move=> a0 step; have one : 0 < 1 - mu by rewrite subr_gt0.
have r0 : 0 <= mu / (1 - mu) * q by rewrite mulr_ge0 // divr_ge0 // ltW.
elim=> [|t IH]; first by rewrite a0.
apply: le_trans (step t) _; apply: le_trans (_ : weight t.+1 * (mu / (1 - mu) * q + q) <= _).
  by rewrite ler_wpM2l ?weight_ge0 ?lerD2r.
apply: le_trans (_ : mu * (mu / (1 - mu) * q + q) <= _); first by rewrite ler_wpM2r ?weight_le ?addr_ge0.
by rewrite le_eqVlt; apply/orP; left; apply/eqP; field; exact: lt0r_neq0.
Qed.

Theorem noise_of_the_memory (b : nat -> R) : b 0%N = s ->
  (forall t, b t.+1 ^+ 2 = weight t.+1 ^+ 2 * b t ^+ 2 + (1 - weight t.+1) ^+ 2 * s ^+ 2) ->
  forall t, b t ^+ 2 = (1 - mu) / (1 + mu) * ((1 + mu ^+ t.+1) / (1 - mu ^+ t.+1)) * s ^+ 2.
Proof.
move=> b0 step; have one : 1 + mu != 0 by rewrite lt0r_neq0 // ltr_wpDr.
have nz t : 1 - mu ^+ t.+1 != 0 by rewrite lt0r_neq0 // subr_gt0 below.
elim=> [|t IH]; first by rewrite b0 expr1; field; rewrite one; have := nz 0; rewrite expr1 => ->.
rewrite step IH /weight [mu ^+ t.+2]exprS; have := nz t.+1; have := nz t; rewrite [mu ^+ t.+2]exprS.
by move: (mu ^+ t.+1) => x n1 n2; field; rewrite one n1 n2.
Qed.
End Weights.

(* Controls: the noise cannot be left out, and does not add up like a bias but in squares, which is attained. *)
Lemma noise_left_out_is_wrong : exists e : nat -> rat, [/\ e 0%N = 0, forall k, 0 <= e k,
  forall k, e k.+1 ^+ 2 <= (0 * e k + 0) ^+ 2 + 1 ^+ 2 & 0 < e 1%N].
Proof. by exists (fun k => (0 < k)%N%:R); split=> // -[|k] //=; lra. Qed.
Lemma squares_are_attained (R : realFieldType) : exists e : nat -> R, [/\ e 0%N = 3, e 1%N = 5 &
  e 1%N ^+ 2 = (1 * e 0%N + 0) ^+ 2 + 4 ^+ 2].
Proof. by exists (fun k => if k is 0 then 3 else 5); split=> //=; ring. Qed.
