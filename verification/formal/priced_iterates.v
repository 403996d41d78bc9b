(* Convergence with priced truncation, without an error of the memory (docs/theory/priced.md).

   W t, D t and P t are state, direction and projector of step t.  Assumed: the descent lemma, and that the normal
   part of what is kept is at most eta lambda^2 (normal_part_of_the_cut of priced.v). *)
From mathcomp Require Import all_ssreflect all_algebra ring lra.
From GeoLoRA Require Import setting scalar_product telescoping priced.
Import Order.TTheory GRing.Theory Num.Theory.

Section PricedIterates.
Variables (R : realFieldType) (E : lmodType R) (d : scalar_product E) (L : E -> R) (grad : E -> E) (beta best : R).
Variables (P : nat -> E -> E) (W D : nat -> E) (lambda m : nat -> R) (gamma l eps eta : R).
Hypotheses (beta_ge0 : 0 <= beta) (gamma_ge0 : 0 <= gamma) (gamma_lt1 : gamma < 1) (l_ge0 : 0 <= l) (eps_ge0 : 0 <= eps)
  (eta_ge0 : 0 <= eta) (lambda_ge0 : forall t, 0 <= lambda t) (m_ge0 : forall t, 0 <= m t).
Hypothesis smooth : forall X D, L (X + D) <= L X + d (grad X) D + beta / 2 * d D D.
Hypothesis P_linear : forall t a X Y, P t (a *: X + Y) = a *: P t X + P t Y.
Hypothesis P_self_adjoint : forall t X Y, d (P t X) Y = d X (P t Y).
Hypothesis P_idempotent : forall t X, P t (P t X) = P t X.
Hypotheses (W_tangential : forall t, P t (W t) = W t) (D_tangential : forall t, P t (D t) = D t).
Let G t := grad (W t).
Let T t := W t - lambda t *: D t - W t.+1.
Hypotheses (length : forall t, d (D t) (D t) <= l ^+ 2) (size : forall t, d (P t (G t)) (P t (G t)) = m t ^+ 2).
Hypothesis slope : forall t, 0 <= d (G t) (D t).
Hypothesis normal : forall t, d (G t - P t (G t)) (G t - P t (G t)) <= eps ^+ 2.
Hypothesis outside : forall t, d (W t.+1 - P t (W t.+1)) (W t.+1 - P t (W t.+1)) <= (eta * lambda t ^+ 2) ^+ 2.
Hypothesis price : forall t, d (T t) (T t) <= (gamma * lambda t * d (G t) (D t) / m t) ^+ 2.
Hypothesis bounded_below : forall X, best <= L X.

Let lost t := (eps * eta + beta / 2 * (1 + gamma) ^+ 2 * l ^+ 2) * lambda t ^+ 2.
Lemma priced_step t : L (W t.+1) <= L (W t) - (1 - gamma) * lambda t * d (G t) (D t) + lost t.
Proof.
have same : d (P t (G t)) (D t) = d (G t) (D t) by rewrite P_self_adjoint D_tangential.
have error : d (P t (G t) - P t (G t)) (P t (G t) - P t (G t)) <= 0 ^+ 2 by rewrite subrr zero expr0n.
have outside0 : 0 <= eta * lambda t ^+ 2 by rewrite mulr_ge0 ?sqr_ge0.
have slope0 : 0 <= d (P t (G t)) (D t) by rewrite same.
have cut : d (T t) (T t) <= (gamma * lambda t * d (P t (G t)) (D t) / m t) ^+ 2 by rewrite same.
have := priced_decrease beta_ge0 smooth (P_linear t) (P_self_adjoint t) (P_idempotent t) (W_tangential t) (D_tangential t)
  (lambda_ge0 t) l_ge0 eps_ge0 outside0 (length t) (normal t) (outside t) gamma_ge0 slope0 (m_ge0 t) (size t) (lexx 0)
  error cut.
by rewrite same /lost; lra.
Qed.

Theorem priced_slopes_return_to_zero C b : (forall n, \sum_(t < n) lost t <= C) ->
  (forall K, exists n, K < \sum_(t < n) (1 - gamma) * lambda t) -> 0 < b ->
  forall t0, exists2 t, (t0 <= t)%N & d (grad (W t)) (D t) < b.
Proof.
move=> small unbounded b0.
have stay t : L (W t.+1) <= L (W t.+1) + 0 by rewrite addr0.
apply: (gradients_return_to_zero (loss := fun t => L (W t)) (h := fun t => L (W t.+1)) (c := fun=> 0)
  priced_step stay (fun t => bounded_below (W t))) (C) _ _ slope _ unbounded b0.
- by move=> n; rewrite [\sum_(t < n) 0]big1_eq addr0.
- by move=> t; rewrite mulr_ge0 // subr_ge0 ltW.
Qed.
End PricedIterates.

(* Control: with a share above 1 a step ascends, for the loss x. *)
Lemma more_than_all_is_wrong (W lambda gamma : rat) : 0 < lambda -> 1 < gamma -> W < W - lambda - - (gamma * lambda).
Proof. by move=> l0 g1; have := ltr_pM2r l0; move=> /(_ 1 gamma); rewrite mul1r g1; lra. Qed.
