(* Every step descends, up to its truncation (docs/theory/descent.md, docs/theory/directions.md).

   Assumed: the descent lemma, L(X + D) <= L(X) + <grad L(X), D> + beta/2 |D|^2, which Lipschitz gradients have
   (on paper).  P is any self-adjoint idempotent map, tangent_projector.v; that the step is W - lambda D is
   exact_tangent_step.v.  Norms stand as numbers a >= 0 with |X|^2 <= a^2. *)
From mathcomp Require Import all_ssreflect all_algebra ring lra.
From GeoLoRA Require Import setting scalar_product tangent_projector.
Import Order.TTheory GRing.Theory Num.Theory.

Section Descent.
Variables (R : realFieldType) (E : lmodType R) (d : scalar_product E) (L : E -> R) (grad P : E -> E) (beta : R).
Hypothesis smooth : forall X D, L (X + D) <= L X + d (grad X) D + beta / 2 * d D D.
Hypotheses (P_self_adjoint : forall X Y, d (P X) Y = d X (P Y)) (P_idempotent : forall X, P (P X) = P X).

Theorem descent_along W lambda D :
  L (W - lambda *: D) <= L W - lambda * d (grad W) D + beta / 2 * lambda ^+ 2 * d D D.
Proof.
rewrite -scaleNr; apply: le_trans (smooth W _) _; rewrite !dotZ (dotC d (_ *: D)) dotZ le_eqVlt.
by apply/orP; left; apply/eqP; ring.
Qed.

Theorem descent_of_gradient_step W lambda :
  L (W - lambda *: P (grad W)) <= L W - lambda * (1 - beta * lambda / 2) * d (P (grad W)) (P (grad W)).
Proof.
apply: le_trans (descent_along _ _ _) _.
have -> : d (grad W) (P (grad W)) = d (P (grad W)) (P (grad W)) by rewrite [RHS]P_self_adjoint P_idempotent.
by rewrite le_eqVlt; apply/orP; left; apply/eqP; field.
Qed.

(* With 0 < lambda < 2 / beta the projected gradient itself is what is gained. *)
Corollary loss_falls W lambda : 0 < lambda -> beta * lambda < 2 -> 0 < d (P (grad W)) (P (grad W)) ->
  L (W - lambda *: P (grad W)) < L W.
Proof.
move=> l0 l2 g0; apply: le_lt_trans (descent_of_gradient_step W lambda) _.
by rewrite ltrBlDr ltrDl mulr_gt0 // mulr_gt0 // subr_gt0; lra.
Qed.

Theorem truncation_adds W_hat W1 B theta : 0 <= B -> 0 <= theta -> 0 <= beta ->
  d (grad W_hat) (grad W_hat) <= B ^+ 2 -> d (W1 - W_hat) (W1 - W_hat) <= theta ^+ 2 ->
  L W1 <= L W_hat + d (grad W_hat) (W1 - W_hat) + beta / 2 * d (W1 - W_hat) (W1 - W_hat) /\
  L W1 <= L W_hat + B * theta + beta / 2 * theta ^+ 2.
Proof.
move=> B0 theta0 beta0 gB Dtheta; have := smooth W_hat (W1 - W_hat); rewrite addrC subrK => step.
split=> //; have := norm_bound B0 theta0 gB Dtheta; have b2 : 0 <= beta / 2 by lra.
have := ler_wpM2l b2 Dtheta; lra.
Qed.

(* A spectral step: slope nuclear, and |D|^2 <= k, both from directions.v. *)
Theorem spectral_descent W lambda D nuclear k : 0 <= beta -> d (grad W) D = nuclear -> d D D <= k ->
  L (W - lambda *: D) <= L W - lambda * nuclear + beta / 2 * k * lambda ^+ 2.
Proof.
move=> beta0 slope short; apply: le_trans (descent_along W lambda D) _; rewrite slope lerD2l -mulrA -[leRHS]mulrA.
by apply: ler_wpM2l; [lra | rewrite mulrC; apply: ler_wpM2r; rewrite ?sqr_ge0].
Qed.
End Descent.

(* P of the setting is such a map: real matrices. *)
Corollary descent_of_matrices (R : realFieldType) m n r s (L : 'M[R]_(m, n) -> R) grad beta
  (U : 'M[R]_(m, r)) (V : 'M[R]_(n, s)) W lambda (d := trace_product R m n) (G := proj (no_conjugate R) U V (grad W)) :
  (forall X D, L (X + D) <= L X + d (grad X) D + beta / 2 * d D D) -> isometry (no_conjugate R) U ->
  isometry (no_conjugate R) V -> L (W - lambda *: G) <= L W - lambda * (1 - beta * lambda / 2) * d G G.
Proof.
move=> smooth isoU isoV; apply: (descent_of_gradient_step smooth) => [X Y | X].
  exact: projector_self_adjoint.
exact: projector_idempotent.
Qed.

(* Controls, for L(x) = x^2 / 2 and P the identity: the first bound is attained, and with 1/4 for 1/2 it fails. *)
Lemma quarter_for_half_is_wrong (L := fun x : rat => x ^+ 2 / 2) :
  (forall X D : rat, L (X + D) = L X + X * D + 1 / 2 * (D * D)) /\
  (forall W lambda : rat, L (W - lambda * W) = L W - lambda * (1 - lambda / 2) * (W * W)) /\
  exists W lambda : rat, L W - lambda * (1 - lambda / 4) * (W * W) < L (W - lambda * W).
Proof.
split; first by move=> X D; rewrite /L; field.
split; first by move=> W lambda; rewrite /L; field.
by exists 1, 1; rewrite /L; lra.
Qed.
