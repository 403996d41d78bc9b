(* The step before truncation is W - lambda D, exactly (docs/theory/step.md, docs/theory/directions.md).

   U and V have any numbers of columns, S is any matrix, the augmentation has any number of columns, zero
   included: near min(m, n) nothing changes.  Assumed is what line 4 promises: new columns are orthonormal,
   orthogonal to the old ones, and the range of both contains the new coefficients.  lambda is real. *)
From mathcomp Require Import all_ssreflect all_algebra ring.
From GeoLoRA Require Import setting.
Import GRing.Theory Num.Theory.

(* Lines 3 to 5: W_hat = [U|Ut] [[S_new, L_new^H Vt], [Ut^H K_new, 0]] [V|Vt]^H. *)
Definition W_hat (R : comRingType) (J : involution R) m n r s p q (U : 'M[R]_(m, r)) (V : 'M[R]_(n,
  s)) (S : 'M[R]_(r, s))
    (Ut : 'M[R]_(m, p)) (Vt : 'M[R]_(n, q)) (lambda : R) (D_K : 'M[R]_(m, s)) (D_L : 'M[R]_(n, r)) (D_S : 'M[R]_(r,
      s)) :=
  row_mx U Ut *m block_mx (S - lambda *: D_S) (adj J (V *m adj J S - lambda *: D_L) *m Vt)
                          (adj J Ut *m (U *m S - lambda *: D_K)) 0 *m adj J (row_mx V Vt).

(* The range of [B|Bt] contains X. *)
Definition reaches (R : comRingType) m r p k (B : 'M[R]_(m, r)) (Bt : 'M[R]_(m, p)) (X : 'M[R]_(m, k)) :=
  exists A C, X = B *m A + Bt *m C.

Section ExactTangentStep.
Variables (R : comRingType) (J : involution R) (m n r s p q : nat).
Variables (U : 'M[R]_(m, r)) (V : 'M[R]_(n, s)) (S : 'M[R]_(r, s)) (Ut : 'M[R]_(m, p)) (Vt : 'M[R]_(n, q)).
Variables (lambda : R) (G : 'M[R]_(m, n)).
Notation "A ^H" := (adj J A) (at level 2, format "A ^H").
Hypotheses (real : J lambda = lambda) (isoU : isometry J U) (isoV : isometry J V).
Hypotheses (isoUt : isometry J Ut) (isoVt : isometry J Vt) (UUt : U^H *m Ut = 0) (VVt : V^H *m Vt = 0).

Lemma augmentation_completes k l j (B : 'M[R]_(k, l)) (Bt : 'M[R]_(k, j)) i (X : 'M[R]_(k, i)) :
  isometry J B -> isometry J Bt -> B^H *m Bt = 0 -> reaches B Bt X -> Bt *m Bt^H *m X = X - B *m B^H *m X.
Proof.
move=> isoB isoBt BBt [A [C ->]]; have BtB : Bt^H *m B = 0 by rewrite -[LHS](adjK J) adjM adjK BBt adj0.
have rBt a (M : 'M_(a, j)) : M *m Bt^H *m B = 0 by rewrite -mulmxA BtB mulmx0.
have rB a (M : 'M_(a, l)) : M *m B^H *m Bt = 0 by rewrite -mulmxA BBt mulmx0.
by expand; rewrite rBt rB (isoK _ isoB) (isoK _ isoBt); expand; entries.
Qed.

Theorem exact_step_along_tangent D_K D_L D_S : tangent J U V D_K D_L D_S ->
  reaches U Ut (U *m S - lambda *: D_K) -> reaches V Vt (V *m S^H - lambda *: D_L) ->
  W_hat J U V S Ut Vt lambda D_K D_L D_S = U *m S *m V^H - lambda *: of_triple J U V D_K D_L D_S.
Proof.
move=> [UK SL] /(augmentation_completes isoU isoUt UUt) K /(augmentation_completes isoV isoVt VVt) L.
rewrite /W_hat adj_row mul_row_block mul_row_col mulmx0 addr0 mulmxDl mulmxA K.
have -> : U *m ((V *m S^H - lambda *: D_L)^H *m Vt) *m Vt^H = U *m (Vt *m Vt^H *m (V *m S^H - lambda *: D_L))^H.
  by rewrite !adjM !adjK !mulmxA.
rewrite L /of_triple; have LV : D_L^H *m V = D_S by rewrite SL adjM adjK.
have rK k (M : 'M_(k, r)) : M *m U^H *m D_K = M *m D_S by rewrite -mulmxA UK.
have rL k (M : 'M_(k, r)) : M *m D_L^H *m V = M *m D_S by rewrite -mulmxA LV.
by expand; rewrite real ?(isoK _ isoU, isoK _ isoV, rK, rL); entries.
Qed.

Theorem exact_gradient_step : let K := G *m V in let L := G^H *m U in
  reaches U Ut (U *m S - lambda *: K) -> reaches V Vt (V *m S^H - lambda *: L) ->
  W_hat J U V S Ut Vt lambda K L (U^H *m G *m V) = U *m S *m V^H - lambda *: proj J U V G.
Proof.
move=> K L reachK reachL; suff -> : proj J U V G = of_triple J U V K L (U^H *m G *m V).
  by apply: exact_step_along_tangent => //; rewrite /K /L; split; expand.
by rewrite /of_triple /proj /K /L; expand; entries.
Qed.

(* A square unitary basis leaves nothing outside: the step is plain gradient descent. *)
Theorem full_rank_step : U *m U^H = 1%:M -> proj J U V G = G.
Proof. by rewrite /proj => ->; expand; entries. Qed.
Theorem full_rank_step_right : V *m V^H = 1%:M -> proj J U V G = G.
Proof. by rewrite /proj => VV; rewrite -!(mulmxA _ V) VV; expand; entries. Qed.
(* Where the gradient is normal, and for lambda = 0, nothing moves. *)
Theorem fixed_point : proj J U V G = 0 \/ lambda = 0 -> U *m S *m V^H - lambda *: proj J U V G = U *m S *m V^H.
Proof. by case=> ->; rewrite ?scaler0 ?scale0r subr0. Qed.
End ExactTangentStep.

(* Controls: a direction that is no tangent triple; an augmentation that does not reach K_new. *)
Lemma own_core_is_wrong : exists D_S : 'M[rat]_1, let J := no_conjugate rat in
  W_hat J 1%:M 1%:M 1%:M (0 : 'M_(1, 0)) (0 : 'M_(1, 0)) 1 1%:M 1%:M D_S <>
  1%:M - of_triple J 1%:M 1%:M 1%:M 1%:M D_S.
Proof.
exists 2%:M; rewrite /W_hat /of_triple adj_row mul_row_block mul_row_col !adj1 !mul1mx !mulmx1 !mul0mx !mulmx0.
by move=> /matrixP/(_ 0 0); compute_entries; exact/eqP.
Qed.

Lemma missing_columns_are_wrong : exists U V G : 'cV[rat]_2, let J := no_conjugate rat in
  let e := (0 : 'M[rat]_(2, 0)) in let A := G *m adj J V in isometry J U /\ isometry J V /\
  W_hat J U V 0 e e 1 (A *m V) (adj J A *m U) (adj J U *m A *m V) <> - proj J U V A.
Proof.
exists (delta_mx 0 0), (delta_mx 0 0), (delta_mx 1 0).
rewrite /W_hat /isometry adj_row mul_row_block mul_row_col; split; last split.
- by apply/matrixP => i j; rewrite !ord1; compute_entries.
- by apply/matrixP => i j; rewrite !ord1; compute_entries.
by move=> /matrixP/(_ 1 0); rewrite /proj; compute_entries; exact/eqP.
Qed.
