(* From one step to k steps: the robust error bound (docs/theory/error_bound.md).

   Assumed of a distance: the triangle inequality.  Assumed of the exact flow F over one step: two solutions
   separate at most by the factor q = exp(mu lambda), for any sign of mu; one step from the same point errs by
   at most lambda eps + l lambda^2 B / 2; truncation adds theta.  Left on paper: that the one-sided constant mu
   gives q, and the integral that gives the local error. *)
From mathcomp Require Import all_ssreflect all_algebra ring lra.
From GeoLoRA Require Import setting.
Import Order.TTheory GRing.Theory Num.Theory.

Section Recursion.
Variables (R : realFieldType) (q : R).
Hypothesis q_ge0 : 0 <= q.

Theorem recursion_to_closed_form (e a : nat -> R) : (forall k, e k.+1 <= q * e k + a k) ->
  forall k, e k <= q ^+ k * e 0%N + \sum_(j < k) q ^+ (k - j.+1) * a j.
Proof.
move=> step; elim=> [|k IH]; first by rewrite big_ord0 expr0; lra.
apply: le_trans (step k) _; rewrite big_ord_recr /= subnn expr0 mul1r addrA lerD2r.
apply: le_trans (ler_wpM2l q_ge0 IH) _; rewrite mulrDr mulrA -exprS mulr_sumr le_eqVlt; apply/orP; left.
apply/eqP; congr (_ + _); apply: eq_bigr => j _; rewrite mulrA -exprS; congr (q ^+ _ * _).
by rewrite subSS -subSn.
Qed.

Corollary constant_closed_form (e : nat -> R) a : (forall k, e k.+1 <= q * e k + a) ->
  forall k, e k <= q ^+ k * e 0%N + (\sum_(j < k) q ^+ j) * a.
Proof.
move=> step k; apply: le_trans (@recursion_to_closed_form e (fun=> a) step k) _; rewrite lerD2l mulr_suml.
by rewrite (reindex_inj rev_ord_inj) /= le_eqVlt; apply/orP; left; apply/eqP/eq_bigr => j _;
  rewrite subnSK ?subKn // ltnW.
Qed.

(* phi: for q <= 1 (mu <= 0) at most k, so that lambda times it is at most T; otherwise (q^k - 1) / (q - 1). *)
Theorem contraction_has_phi_at_most_k k : q <= 1 -> \sum_(j < k) q ^+ j <= k%:R.
Proof.
move=> q1; rewrite -[k in k%:R]card_ord -sum1_card natr_sum; apply: ler_sum => j _; exact: exprn_ile1.
Qed.
Theorem phi_in_general k : (q - 1) * (\sum_(j < k) q ^+ j) = q ^+ k - 1.
Proof. by rewrite subrX1. Qed.
End Recursion.

Section ErrorBound.
Variables (R : realFieldType) (X : Type) (dist : X -> X -> R) (flow : X -> X) (W W_hat exact : nat -> X).
Variables (q lambda eps l B theta delta : R).
Hypotheses (triangle : forall x y z, dist x z <= dist x y + dist y z) (q_ge0 : 0 <= q) (lambda_gt0 : 0 < lambda).
Hypothesis separate : forall x y, dist (flow x) (flow y) <= q * dist x y.
Hypothesis solution : forall k, exact k.+1 = flow (exact k).
Hypothesis local_error : forall k, dist (flow (W k)) (W_hat k) <= lambda * eps + l * lambda ^+ 2 * B / 2.
Hypothesis truncated : forall k, dist (W_hat k) (W k.+1) <= theta.
Hypothesis start : dist (exact 0) (W 0) <= delta.

Theorem robust_error_bound k : dist (exact k) (W k) <=
  q ^+ k * delta + lambda * (\sum_(j < k) q ^+ j) * (eps + l * B * lambda / 2 + theta / lambda).
Proof.
have step i : dist (exact i.+1) (W i.+1) <= q * dist (exact i) (W i) + (lambda * eps + l * lambda ^+ 2 * B / 2 + theta).
  rewrite solution; have := triangle (flow (exact i)) (flow (W i)) (W i.+1).
  have := triangle (flow (W i)) (W_hat i) (W i.+1); have := separate (exact i) (W i).
  by have := local_error i; have := truncated i; lra.
apply: le_trans (constant_closed_form q_ge0 step k) _; apply: lerD; first by rewrite ler_wpM2l ?exprn_ge0.
rewrite le_eqVlt; apply/orP; left; apply/eqP; field; exact: lt0r_neq0.
Qed.
End ErrorBound.

(* The closed form is attained; controls: a negative q, and the sum without its last term, break it. *)
Lemma closed_form_is_attained (R : realFieldType) (q a e0 : R) : exists e : nat -> R, e 0%N = e0 /\
  forall k, e k.+1 = q * e k + a /\ e k = q ^+ k * e0 + (\sum_(j < k) q ^+ j) * a.
Proof.
exists (fun k => q ^+ k * e0 + (\sum_(j < k) q ^+ j) * a); split; first by rewrite big_ord0 expr0; ring.
move=> k; split=> //; rewrite big_ord_recl expr0 exprS (eq_bigr (fun j : 'I_k => q * q ^+ j)) => [|j _];
  last by rewrite exprS.
by rewrite -mulr_sumr; ring.
Qed.

Lemma negative_factor_is_wrong : exists e : nat -> rat, (forall k, e k.+1 <= - 1 * e k) /\
  (- 1) ^+ 2 * e 0%N < e 2.
Proof.
by exists (fun k => (k == 2)%:R - (k == 1%N)%:R - (k == 3)%:R); split=> // -[|[|[|[|k]]]].
Qed.
