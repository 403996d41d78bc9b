(* A memory in moving tangent spaces: the error E = M - P grad from step to step (docs/theory/directions.md,
   "Spectral descent with a memory"; the mean over the noise stays on paper).

   M1 = beta P1 M + (1 - beta) P1 g.  P, P1 are idempotent linear maps that shorten.  Proved: the recursion as an
   identity; in squares, where the noise is orthogonal to the rest (which it is in the mean, assumed here);
   and its closed form. *)
From mathcomp Require Import all_ssreflect all_algebra ring lra.
From GeoLoRA Require Import setting scalar_product error_recursion.
Import Order.TTheory GRing.Theory Num.Theory.

Section Memory.
Variables (R : realFieldType) (E : lmodType R) (d : scalar_product E) (P P1 : E -> E) (beta : R).
Hypothesis P1_linear : forall a X Y, P1 (a *: X + Y) = a *: P1 X + P1 Y.
Hypothesis P1_shortens : forall X, d (P1 X) (P1 X) <= d X X.
Hypotheses (beta_ge0 : 0 <= beta) (beta_lt1 : beta < 1).
Variables (M G G1 g : E).
Let old_error := M - P G.
Let new_error := beta *: P1 M + (1 - beta) *: P1 g - P1 G1.
(* The gradient has changed, and part of the old one was normal then and is tangential now. *)
Let drift := P1 (G1 - G) + P1 (G - P G).
Let noise := P1 (g - G1).

Theorem error_identity : new_error = beta *: P1 old_error - beta *: drift + (1 - beta) *: noise.
Proof.
have P1B X Y : P1 (X - Y) = P1 X - P1 Y by rewrite addrC -scaleN1r P1_linear scaleN1r addrC.
rewrite /new_error /old_error /drift /noise !P1B.
rewrite addrA subrK -scalerBr opprB addrA subrK !scalerBr addrACA -opprD -scalerDl.
by rewrite addrCA subrr addr0 scale1r.
Qed.

(* Convexity of the square: |beta x + beta y|^2 <= beta |x|^2 + beta^2 / (1 - beta) |y|^2. *)
Lemma weighted_square x y : d (beta *: x - beta *: y) (beta *: x - beta *: y) <=
  beta * d x x + beta ^+ 2 / (1 - beta) * d y y.
Proof.
have b1 : 0 < 1 - beta by rewrite subr_gt0.
rewrite -scaleNr dot_combination -subr_ge0.
have := dot_ge0 d (1 *: x + (beta / (1 - beta)) *: y); rewrite dot_combination => nonneg.
have := mulr_ge0 (mulr_ge0 beta_ge0 (ltW b1)) nonneg; congr (0 <= _); field; exact: lt0r_neq0.
Qed.

Theorem error_in_squares : d (beta *: P1 old_error - beta *: drift) noise = 0 -> d new_error new_error <=
  beta * d old_error old_error + beta ^+ 2 / (1 - beta) * d drift drift + (1 - beta) ^+ 2 * d noise noise.
Proof.
move=> orthogonal; rewrite error_identity -[_ - _]scale1r dot_combination orthogonal mulr0 addr0 expr1n mul1r lerD2r.
by apply: le_trans (weighted_square _ _) _; rewrite lerD2r ler_wpM2l // P1_shortens.
Qed.

(* |drift| <= a + b with a for the change of the gradient and b for what was normal. *)
Theorem drift_bound a b : 0 <= a -> 0 <= b -> d (P1 (G1 - G)) (P1 (G1 - G)) <= a ^+ 2 ->
  d (P1 (G - P G)) (P1 (G - P G)) <= b ^+ 2 -> d drift drift <= (a + b) ^+ 2.
Proof.
move=> a0 b0 A B; have := norm_bound a0 b0 A B.
rewrite /drift -[P1 (G1 - G)]scale1r -[P1 (G - P G)]scale1r dot_combination !scale1r; lra.
Qed.
End Memory.

(* From step to step, with a bound c of drift and noise: the memory forgets its start and stays below c / (1 - beta). *)
Theorem memory_forgets (R : realFieldType) (beta c : R) (x : nat -> R) : 0 <= beta -> beta < 1 -> 0 <= c ->
  (forall t, x t.+1 <= beta * x t + c) -> forall t, x t <= beta ^+ t * x 0 + c / (1 - beta).
Proof.
move=> b0 b1 c0 step t; have b1' : 0 < 1 - beta by rewrite subr_gt0.
apply: le_trans (constant_closed_form b0 step t) _; rewrite lerD2l mulrC ler_wpM2l // -[leRHS]mul1r ler_pdivlMr //.
have := phi_in_general beta t; have := exprn_ge0 t b0; lra.
Qed.

(* Controls: the drift cannot be left out, nor beta^2 / (1 - beta) replaced by beta^2. *)
Lemma drift_left_out_is_wrong (d := fun x y : rat => x * y) : exists G G1 : rat, let beta := 1 / 2 in
  let new_error := beta * G + (1 - beta) * G1 - G1 in beta * d (G - G) (G - G) < d new_error new_error.
Proof. by exists 0, 1; rewrite /d; lra. Qed.
Lemma smaller_weight_is_wrong (beta := 1 / 2 : rat) : exists x y : rat,
  beta * x ^+ 2 + beta ^+ 2 * y ^+ 2 < (beta * x - beta * y) ^+ 2.
Proof. by exists 1, (-1); rewrite /beta; lra. Qed.
