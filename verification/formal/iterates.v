(* The iterates of the step (docs/theory/descent.md): step t leads from U S V^H over W_hat of lines 3 to 5 to any
   matrix at a distance of at most theta t from W_hat.  Real matrices, plain gradients; ranks may change.

   Assumed: the descent lemma, and what line 4 promises. *)
From mathcomp Require Import all_ssreflect all_algebra ring lra.
From GeoLoRA Require Import setting scalar_product tangent_projector exact_tangent_step descent telescoping.
Import Order.TTheory GRing.Theory Num.Theory.

Section Iterates.
Variables (R : realFieldType) (m n : nat) (L : 'M[R]_(m, n) -> R) (grad : 'M[R]_(m, n) -> 'M[R]_(m, n)).
Variables (beta B best : R) (lambda theta : nat -> R) (r s p q : nat -> nat).
Variables (U : forall t, 'M[R]_(m, r t)) (V : forall t, 'M[R]_(n, s t)) (S : forall t, 'M[R]_(r t, s t)).
Variables (Ut : forall t, 'M[R]_(m, p t)) (Vt : forall t, 'M[R]_(n, q t)).
Let J := no_conjugate R.
Let d := trace_product R m n.
Notation "A ^H" := (adj J A) (at level 2, format "A ^H").
Let W t := U t *m S t *m (V t)^H.
Let G t := grad (W t).
Let PG t := proj J (U t) (V t) (G t).
Let hat t := W_hat J (U t) (V t) (S t) (Ut t) (Vt t) (lambda t) (G t *m V t) ((G t)^H *m U t) ((U t)^H *m G t *m V t).
Hypotheses (beta_ge0 : 0 <= beta) (B_ge0 : 0 <= B) (theta_ge0 : forall t, 0 <= theta t).
Hypothesis smooth : forall X D, L (X + D) <= L X + d (grad X) D + beta / 2 * d D D.
Hypotheses (isoU : forall t, isometry J (U t)) (isoV : forall t, isometry J (V t)).
Hypotheses (isoUt : forall t, isometry J (Ut t)) (isoVt : forall t, isometry J (Vt t)).
Hypotheses (UUt : forall t, (U t)^H *m Ut t = 0) (VVt : forall t, (V t)^H *m Vt t = 0).
Hypothesis reachK : forall t, reaches (U t) (Ut t) (U t *m S t - lambda t *: (G t *m V t)).
Hypothesis reachL : forall t, reaches (V t) (Vt t) (V t *m (S t)^H - lambda t *: ((G t)^H *m U t)).
Hypothesis truncated : forall t, d (W t.+1 - hat t) (W t.+1 - hat t) <= theta t ^+ 2.
Hypothesis steepest : forall t, d (grad (hat t)) (grad (hat t)) <= B ^+ 2.
Hypothesis bounded_below : forall X, best <= L X.

Let cost t := B * theta t + beta / 2 * theta t ^+ 2.
Let gain t := lambda t * (1 - beta * lambda t / 2).
Lemma half_step t : L (hat t) <= L (W t) - gain t * d (PG t) (PG t) + 0.
Proof.
rewrite addr0 (_ : hat t = W t - lambda t *: PG t); first exact: descent_of_matrices.
exact: exact_gradient_step.
Qed.
Lemma cut t : L (W t.+1) <= L (hat t) + cost t.
Proof.
have [_] := truncation_adds smooth B_ge0 (theta_ge0 t) beta_ge0 (steepest t) (truncated t).
by rewrite /cost; lra.
Qed.

Theorem iterates_descend T : \sum_(t < T) gain t * d (PG t) (PG t) <= L (W 0) - best + \sum_(t < T) cost t.
Proof.
have := sum_over_steps half_step cut (fun t => bounded_below (W t)) T.
by rewrite [\sum_(t < T) 0]big1_eq addr0.
Qed.

Theorem smallest_gradient_of_the_iterates T rate : (0 < T)%N -> 0 < rate -> beta * rate < 2 ->
  (forall t, lambda t = rate) -> exists2 t, (t < T)%N &
  d (PG t) (PG t) <= (L (W 0) - best + \sum_(t < T) cost t) / (T%:R * (rate * (1 - beta * rate / 2))).
Proof.
move=> T0 rate0 stable constant.
have w0 : 0 < rate * (1 - beta * rate / 2) by rewrite mulr_gt0 // subr_gt0; lra.
have ww t : gain t = rate * (1 - beta * rate / 2) by rewrite /gain constant.
by have := smallest_gradient half_step cut (fun t => bounded_below (W t)) T0 w0 ww (fun=> erefl).
Qed.

(* Rates that fall, without noise: the projected gradients return to zero if the truncations can be summed. *)
Theorem iterates_become_stationary C b : (forall T, \sum_(t < T) cost t <= C) -> (forall t, 0 <= gain t) ->
  (forall K, exists T, K < \sum_(t < T) gain t) -> 0 < b -> forall t0, exists2 t, (t0 <= t)%N & d (PG t) (PG t) < b.
Proof.
move=> small positive unbounded b0.
apply: (gradients_return_to_zero half_step cut (fun t => bounded_below (W t))) (C) _ _ _ positive unbounded b0.
- by move=> T; rewrite [\sum_(t < T) 0]big1_eq add0r.
- by move=> t; exact: dot_ge0.
Qed.
End Iterates.

(* Control: beyond 2 / beta a step ascends, for x^2 / 2. *)
Lemma beyond_two_is_wrong (L := fun x : rat => x ^+ 2 / 2) : exists W lambda : rat, 2 < lambda /\ L W < L (W - lambda * W).
Proof. by exists 1, 3; rewrite /L; split; lra. Qed.
