(* Spectral descent with a memory: one step, and the error from step to step in norms (docs/theory/directions.md).

   D = P Q with the smoothed polar factor Q of the memory M.  Left on paper: that Q exists with the singular values
   x / w, w = sqrt(x^2 + delta^2), hence |<E, Q>| <= |E|_*, and the bound of nu by the angle between the ranges. *)
From mathcomp Require Import all_ssreflect all_algebra ring lra.
From GeoLoRA Require Import setting scalar_product descent memory error_recursion priced.
Import Order.TTheory GRing.Theory Num.Theory.

Section Step.
Variables (R : realFieldType) (E : lmodType R) (d : scalar_product E) (L : E -> R) (grad P : E -> E) (beta : R).
Hypothesis smooth : forall X D, L (X + D) <= L X + d (grad X) D + beta / 2 * d D D.
Hypothesis P_self_adjoint : forall X Y, d (P X) Y = d X (P Y).

Theorem descent_with_memory W M Q lambda nuclear : 0 <= lambda -> P M = M -> d (M - P (grad W)) Q <= nuclear ->
  L (W - lambda *: P Q) <= L W - lambda * (d M (P Q) - nuclear) + beta / 2 * lambda ^+ 2 * d (P Q) (P Q).
Proof.
move=> lambda0 PM error; apply: le_trans (descent_along smooth W lambda (P Q)) _.
have -> : d (grad W) (P Q) = d M (P Q) - d (M - P (grad W)) Q.
  by rewrite -!P_self_adjoint PM [d (M - _) Q]dotC dotD opposite ![d Q _]dotC; ring.
have := ler_wpM2l lambda0 error; lra.
Qed.
End Step.

(* Singular values x of the mean of the memory, F its norm, delta^2 = s^2 F^2 / k. *)
Section Shares.
Variables (R : realFieldType) (k : nat) (x w : 'I_k -> R) (F s c : R).
Hypotheses (k_gt0 : (0 < k)%N) (F_gt0 : 0 < F) (norm : \sum_i x i ^+ 2 = F ^+ 2).
Let delta2 := s ^+ 2 * F ^+ 2 / k%:R.
Hypotheses (w_gt0 : forall i, 0 < w i) (root : forall i, w i ^+ 2 = x i ^+ 2 + delta2).
Let kR : 0 < k%:R :> R. Proof. by rewrite ltr0n. Qed.

(* <M, D> >= c |M| *)
Theorem slope_of_the_memory : 0 < c -> c ^+ 2 * (1 + s ^+ 2 / k%:R) = 1 -> c * F <= \sum_i x i ^+ 2 / w i.
Proof.
move=> c0 cc; have short i : c * w i <= F.
  rewrite -(@ler_pXn2r _ 2) ?nnegrE ?(ltW F_gt0) ?mulr_ge0 ?(ltW c0) ?(ltW (w_gt0 i)) // exprMn root.
  have : x i ^+ 2 <= F ^+ 2 by rewrite -norm (bigD1 i) //= lerDl sumr_ge0 // => j _; rewrite sqr_ge0.
  move=> /(ler_wpM2l (sqr_ge0 c)) part.
  apply: le_trans (_ : c ^+ 2 * (F ^+ 2 + delta2) <= _); first by rewrite !mulrDr lerD2r.
  rewrite /delta2 (_ : c ^+ 2 * _ = c ^+ 2 * (1 + s ^+ 2 / k%:R) * F ^+ 2); last by ring.
  by rewrite cc mul1r.
have -> : c * F = \sum_i x i ^+ 2 * (c / F).
  by rewrite -mulr_suml norm; field; exact: lt0r_neq0.
apply: ler_sum => i _; apply: ler_wpM2l; first exact: sqr_ge0.
by rewrite ler_pdivrMr // mulrC ler_pdivlMr // mulrC short.
Qed.

(* |D|^2 <= k / (1 + s^2) *)
Theorem length_of_the_step : \sum_i x i ^+ 2 / w i ^+ 2 <= k%:R / (1 + s ^+ 2).
Proof.
have s1 : 0 < 1 + s ^+ 2 by rewrite ltr_wpDr ?sqr_ge0.
have F2 : 0 < F ^+ 2 by rewrite exprn_gt0.
pose a := s ^+ 2 * k%:R / ((1 + s ^+ 2) ^+ 2 * F ^+ 2).
have tangent i : x i ^+ 2 / w i ^+ 2 <= (1 + s ^+ 2)^-1 + a * (x i ^+ 2 - F ^+ 2 / k%:R).
  rewrite ler_pdivrMr ?exprn_gt0 // root /delta2 -subr_ge0; move: (x i ^+ 2) (sqr_ge0 (x i)) => y y0.
  rewrite (_ : _ - _ = s ^+ 2 * (k%:R * y - F ^+ 2) ^+ 2 / ((1 + s ^+ 2) ^+ 2 * F ^+ 2 * k%:R)).
    by apply: divr_ge0; [apply: mulr_ge0; exact: sqr_ge0 | apply: ltW; rewrite !mulr_gt0 ?exprn_gt0].
  by rewrite /a; field; rewrite !lt0r_neq0.
apply: le_trans (ler_sum _ (fun i _ => tangent i)) _.
rewrite big_split /= sumr_const card_ord -mulr_sumr sumrB norm sumr_const card_ord -[_ *+ k]mulr_natl.
rewrite -[(F ^+ 2 / _) *+ k]mulr_natl [k%:R * (F ^+ 2 / _)]mulrC divfK ?lt0r_neq0 // subrr mulr0 addr0 mulrC.
by rewrite mulrC.
Qed.
End Shares.

(* |E_t| <= mu (|E_(t-1)| + |change of the gradient| + nu); then memory.memory_forgets sums it. *)
Theorem error_in_norms (R : realFieldType) (E : lmodType R) (d : scalar_product E) (P P1 : E -> E) (mu e g nu : R) M G G1 :
  (forall a X Y, P1 (a *: X + Y) = a *: P1 X + P1 Y) -> (forall X, d (P1 X) (P1 X) <= d X X) -> 0 <= mu ->
  0 <= e -> 0 <= g -> 0 <= nu -> d (M - P G) (M - P G) <= e ^+ 2 -> d (G1 - G) (G1 - G) <= g ^+ 2 ->
  d (P1 (G - P G)) (P1 (G - P G)) <= nu ^+ 2 ->
  forall E1, E1 = mu *: P1 M + (1 - mu) *: P1 G1 - P1 G1 -> d E1 E1 <= (mu * (e + (g + nu))) ^+ 2.
Proof.
move=> lin short mu0 e0 g0 nu0 old change seen E1 recursion.
have P10 : P1 (G1 - G1) = 0 by have := lin (-1) G1 G1; rewrite !scaleN1r ![- _ + _]addrC !subrr.
have -> : E1 = mu *: (P1 (M - P G) + - (P1 (G1 - G) + P1 (G - P G))).
  by rewrite recursion (error_identity P mu lin M G G1 G1) P10 scaler0 addr0 scalerBr.
rewrite dotZ dotC dotZ mulrA -expr2 exprMn; apply: ler_wpM2l; first exact: sqr_ge0.
apply: triangle; rewrite ?addr_ge0 //; first by apply: le_trans (short _) old.
by rewrite opposite_square; apply: triangle => //; apply: le_trans (short _) change.
Qed.

(* Controls: the error of the memory cannot be left out: for x^2 / 2 a memory that opposes the gradient ascends. *)
Lemma error_left_out_is_wrong (L := fun x : rat => x ^+ 2 / 2) : exists W M lambda : rat, [/\ 0 < lambda,
  0 < M * M & L W - lambda * (M * M) + 1 / 2 * lambda ^+ 2 * (M * M) < L (W - lambda * M)].
Proof. by exists 1, (-1), 1; rewrite /L; split; lra. Qed.
