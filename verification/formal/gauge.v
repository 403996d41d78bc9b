(* Nothing depends on the gauge (docs/theory/step.md, docs/theory/directions.md).

   (U Q1, Q1^H S Q2, V Q2) with unitary Q1, Q2 is the same W.  Proved for lines 3 to 5: coefficients turn along,
   a valid augmentation stays one, and the matrix before truncation is the same, for every valid augmentation;
   so too under unitary changes of the ambient bases and under transposition.
   Left on paper: that a truncation without ties depends on this matrix alone. *)
From mathcomp Require Import all_ssreflect all_algebra ring.
From GeoLoRA Require Import setting exact_tangent_step.
Import GRing.Theory Num.Theory.

Section Gauge.
Variables (R : comRingType) (J : involution R) (m n r s : nat).
Variables (U : 'M[R]_(m, r)) (V : 'M[R]_(n, s)) (S : 'M[R]_(r, s)) (G : 'M[R]_(m, n)) (Q1 : 'M[R]_r) (Q2 : 'M[R]_s).
Notation "A ^H" := (adj J A) (at level 2, format "A ^H").
Hypotheses (isoU : isometry J U) (isoV : isometry J V) (uQ1 : unitary J Q1) (uQ2 : unitary J Q2).
Let K1 p (M : 'M[R]_(p, r)) : M *m Q1 *m Q1^H = M. Proof. by rewrite -mulmxA uQ1.2 mulmx1. Qed.
Let K2 p (M : 'M[R]_(p, s)) : M *m Q2 *m Q2^H = M. Proof. by rewrite -mulmxA uQ2.2 mulmx1. Qed.

Theorem same_matrix : (U *m Q1) *m (Q1^H *m S *m Q2) *m (V *m Q2)^H = U *m S *m V^H.
Proof. by expand; rewrite K1 K2. Qed.

Theorem bases_stay_orthonormal : isometry J (U *m Q1) /\ isometry J (V *m Q2).
Proof. by rewrite /isometry; split; expand; rewrite -?(mulmxA Q1^H) -?(mulmxA Q2^H) ?isoU ?isoV; expand;
  rewrite ?uQ1.1 ?uQ2.1. Qed.

Theorem same_projector Z : proj J (U *m Q1) (V *m Q2) Z = proj J U V Z.
Proof. by rewrite /proj; expand; rewrite !(K1, K2). Qed.

(* Line 2 and 3: gradients and coefficients turn along. *)
Theorem gradients_turn_along : G *m (V *m Q2) = G *m V *m Q2 /\ G^H *m (U *m Q1) = G^H *m U *m Q1 /\
  (U *m Q1)^H *m G *m (V *m Q2) = Q1^H *m (U^H *m G *m V) *m Q2.
Proof. by split; [|split]; expand. Qed.

Theorem coefficients_turn_along lambda D_K D_L D_S :
  [/\ U *m Q1 *m (Q1^H *m S *m Q2) - lambda *: (D_K *m Q2) = (U *m S - lambda *: D_K) *m Q2,
      V *m Q2 *m (Q1^H *m S *m Q2)^H - lambda *: (D_L *m Q1) = (V *m S^H - lambda *: D_L) *m Q1
    & Q1^H *m S *m Q2 - lambda *: (Q1^H *m D_S *m Q2) = Q1^H *m (S - lambda *: D_S) *m Q2].
Proof. by split; expand; rewrite ?(K1, K2). Qed.

Theorem triples_turn_along D_K D_L D_S : tangent J U V D_K D_L D_S ->
  tangent J (U *m Q1) (V *m Q2) (D_K *m Q2) (D_L *m Q1) (Q1^H *m D_S *m Q2) /\
  of_triple J (U *m Q1) (V *m Q2) (D_K *m Q2) (D_L *m Q1) (Q1^H *m D_S *m Q2) = of_triple J U V D_K D_L D_S.
Proof.
move=> [UK SL]; split; last by rewrite /of_triple; expand; rewrite !(K1, K2).
by split; [expand; rewrite -(mulmxA Q1^H) UK | rewrite SL; expand].
Qed.

(* Line 4: what reaches the old coefficients reaches the turned ones. *)
Theorem augmentation_stays_valid p (Ut : 'M[R]_(m, p)) X : U^H *m Ut = 0 -> reaches U Ut X ->
  (U *m Q1)^H *m Ut = 0 /\ reaches (U *m Q1) Ut (X *m Q2).
Proof.
move=> UUt [A [C ->]]; split; first by rewrite adjM -mulmxA UUt mulmx0.
by exists (Q1^H *m A *m Q2), (C *m Q2); expand; rewrite K1.
Qed.

(* Line 5: the matrix before truncation is the same, whichever valid augmentation each gauge has chosen. *)
Theorem same_W_hat p q p' q' Ut Vt Ut' Vt' lambda D_K D_L D_S : J lambda = lambda -> tangent J U V D_K D_L D_S ->
  isometry J Ut -> isometry J Vt -> U^H *m Ut = 0 -> V^H *m Vt = 0 ->
  reaches U Ut (U *m S - lambda *: D_K) -> reaches V Vt (V *m S^H - lambda *: D_L) ->
  let U' := U *m Q1 in let V' := V *m Q2 in let S' := Q1^H *m S *m Q2 in
  isometry J Ut' -> isometry J Vt' -> U'^H *m Ut' = 0 -> V'^H *m Vt' = 0 ->
  reaches U' Ut' (U' *m S' - lambda *: (D_K *m Q2)) -> reaches V' Vt' (V' *m S'^H - lambda *: (D_L *m Q1)) ->
  @W_hat R J m n r s p' q' U' V' S' Ut' Vt' lambda (D_K *m Q2) (D_L *m Q1) (Q1^H *m D_S *m Q2) =
  @W_hat R J m n r s p q U V S Ut Vt lambda D_K D_L D_S.
Proof.
move=> real triple isoUt isoVt UUt VVt rK rL U' V' S' isoUt' isoVt' UUt' VVt' rK' rL'.
have [triple' D] := triples_turn_along triple; have [isoU' isoV'] := bases_stay_orthonormal.
by rewrite !exact_step_along_tangent // D same_matrix.
Qed.

(* Other ambient bases, and the roles of U and V exchanged. *)
Theorem ambient_bases_turn_along (A : 'M[R]_m) (B : 'M[R]_n) Z : unitary J A -> unitary J B ->
  proj J (A *m U) (B *m V) (A *m Z *m B^H) = A *m proj J U V Z *m B^H.
Proof. by move=> uA uB; rewrite /proj; expand; rewrite !(isoK _ uA.1, isoK _ uB.1). Qed.
Theorem transposition Z : proj J V U Z^H = (proj J U V Z)^H.
Proof. by rewrite /proj; expand; entries. Qed.
End Gauge.

(* Controls: signs taken entry by entry depend on the gauge; Q in place of Q^H is another matrix. *)
Lemma signs_depend_on_the_gauge : exists (Q : 'M[rat]_2) (K : 'rV[rat]_2), unitary (no_conjugate _) Q /\
  map_mx Num.sg (K *m Q) <> map_mx Num.sg K *m Q.
Proof.
pose Q : 'M[rat]_2 := \matrix_(i, j) if i == j then 3 / 5 else if (i < j)%N then 4 / 5 else - (4 / 5).
exists Q, (delta_mx 0 0); split; first split.
- by apply/matrixP => i j; case: i => [[|[|//]] ?]; case: j => [[|[|//]] ?]; compute_entries.
- by apply/matrixP => i j; case: i => [[|[|//]] ?]; case: j => [[|[|//]] ?]; compute_entries.
by move=> /matrixP/(_ 0 0); compute_entries; exact/eqP.
Qed.
