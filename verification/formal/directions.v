(* Directions that cannot ascend, and the polar factor (docs/theory/directions.md).

   Assumed of numbers: x^* x >= 0, which holds for real and complex ones.  Proved: the self-adjoint form of
   Adam and the preconditioned rule have <G, D> >= 0; <G, P polar(PG)> is the sum of the singular values
   of PG; a polar factor of rank k has norm sqrt k, and P shortens.
   Left on paper: that a singular value decomposition exists (here it is given, as A diag(sigma) B^H). *)
From mathcomp Require Import all_ssreflect all_algebra ring.
From GeoLoRA Require Import setting tangent_projector.
Import GRing.Theory Num.Theory.

Section Directions.
Variables (R : numFieldType) (J : involution R) (m n r s : nat).
Hypothesis square_ge0 : forall x : R, 0 <= J x * x.
Variables (U : 'M[R]_(m, r)) (V : 'M[R]_(n, s)).
Hypotheses (isoU : isometry J U) (isoV : isometry J V).
Notation "A ^H" := (adj J A) (at level 2, format "A ^H").
Notation P := (proj J U V).
Notation square X := (inner J X X).

Lemma inner_sum p q (X Y : 'M[R]_(p, q)) : inner J X Y = \sum_j \sum_i J (X i j) * Y i j.
Proof. by apply: eq_bigr => j _; rewrite mxE; apply: eq_bigr => i _; rewrite adjE. Qed.
Lemma squares p q (X : 'M[R]_(p, q)) : 0 <= square X.
Proof. by rewrite inner_sum !sumr_ge0 // => j _; rewrite sumr_ge0. Qed.
Lemma square_adj p q (X : 'M[R]_(p, q)) : square X^H = square X.
Proof. by rewrite /inner adjK mxtrace_mulC. Qed.

Lemma inner_adj p q (X : 'M[R]_(p, q)) Y : inner J X Y^H = inner J Y X^H.
Proof. by rewrite /inner mxtrace_mulC. Qed.
Lemma weighted_square p q (Q : 'M[R]_p) (N : 'M[R]_(p, q)) (Y : 'M[R]_q) : Q^H *m Q = Q ->
  inner J N (Q *m N *m (Y *m Y^H)) = square (Q *m N *m Y).
Proof. by move=> QQ; rewrite (inner_mulr J Y) inner_mull !mulmxA QQ. Qed.

(* Adam, entry by entry with any weights w_K, w_L > 0, as D = D_K V^H + U D_L^H. *)
Section SumCore.
Variables (G : 'M[R]_(m, n)) (D_K w_K : 'M[R]_(m, s)) (D_L w_L : 'M[R]_(n, r)).
Let D := D_K *m V^H + U *m D_L^H.
Theorem sum_core_is_tangent : P D = D /\ U^H *m D *m V = U^H *m D_K + D_L^H *m V.
Proof.
by split; rewrite /proj /D; expand; rewrite !(isoK _ isoV) ?(isoK _ isoU) ?isoU ?mul1mx //; entries.
Qed.

Hypotheses (weighted_K : forall i j, D_K i j = w_K i j * (G *m V) i j /\ 0 <= w_K i j).
Hypotheses (weighted_L : forall i j, [/\ D_L i j = w_L i j * (G^H *m U) i j, 0 <= w_L i j & J (w_L i j) = w_L i j]).
Theorem sum_core_cannot_ascend : inner J G D =
  \sum_j \sum_i w_K i j * (J ((G *m V) i j) * (G *m V) i j)
  + \sum_j \sum_i w_L i j * (J ((G^H *m U) i j) * (G^H *m U) i j) /\ 0 <= inner J G D.
Proof.
have -> : inner J G D = \sum_j \sum_i w_K i j * (J ((G *m V) i j) * (G *m V) i j)
    + \sum_j \sum_i w_L i j * (J ((G^H *m U) i j) * (G^H *m U) i j).
  rewrite innerDr; congr (_ + _).
    rewrite -inner_mulr inner_sum; apply: eq_bigr => j _; apply: eq_bigr => i _.
    by rewrite (weighted_K i j).1; ring.
  have -> : inner J G (U *m D_L^H) = inner J D_L (G^H *m U) by rewrite /inner; expand; rewrite mxtrace_mulC !mulmxA.
  rewrite inner_sum; apply: eq_bigr => j _; apply: eq_bigr => i _; have [-> _ w] := weighted_L i j.
  by rewrite rmorphM w; ring.
split=> //; apply: addr_ge0; apply: sumr_ge0 => j _; apply: sumr_ge0 => i _; apply: mulr_ge0 => //.
  by have [] := weighted_K i j.
by have [] := weighted_L i j.
Qed.
End SumCore.

(* X_K = Y_K Y_K^H and X_L = Y_L Y_L^H are positive; M is tangential. *)
Theorem preconditioned_cannot_ascend M (Y_K : 'M[R]_s) (Y_L : 'M[R]_r) :
  let X_K := Y_K *m Y_K^H in let X_L := Y_L *m Y_L^H in let M_S := U^H *m M *m V in
  let K := (1%:M - U *m U^H) *m (M *m V) in let L := (1%:M - V *m V^H) *m (M^H *m U) in
  let D := U *m (2^-1 *: (M_S *m X_K + X_L *m M_S)) *m V^H + K *m X_K *m V^H + U *m (L *m X_L)^H in
  inner J M D = 2^-1 * (square (M_S *m Y_K) + square (Y_L^H *m M_S)) + square (K *m Y_K) + square (L *m Y_L)
  /\ 0 <= inner J M D.
Proof.
move=> X_K X_L M_S K L D; suff slope : inner J M D =
    2^-1 * (square (M_S *m Y_K) + square (Y_L^H *m M_S)) + square (K *m Y_K) + square (L *m Y_L).
  by rewrite slope !addr_ge0 ?mulr_ge0 ?addr_ge0 ?squares ?invr_ge0 ?ler0n.
rewrite /D 2!innerDr; congr (_ + _ + _).
- transitivity (inner J M_S (2^-1 *: (M_S *m X_K + X_L *m M_S))).
    by rewrite /M_S inner_mulr inner_mull adjK mulmxA.
  rewrite innerZr innerDr /X_K /X_L; congr (_ * (_ + _)); first by rewrite mulmxA -(inner_mulr J Y_K).
  by rewrite [RHS](inner_mull J Y_L^H) adjK mulmxA.
- rewrite -(inner_mulr J V) weighted_square //; expand; rewrite (isoK _ isoU); entries.
have -> : U *m (L *m X_L)^H = (L *m X_L *m U^H)^H by expand.
rewrite inner_adj inner_mulr adjK inner_sym weighted_square; first by rewrite -inner_sym.
by expand; rewrite (isoK _ isoV); entries.
Qed.

Theorem spectral_slope k (A : 'M[R]_(m, k)) (B : 'M[R]_(n, k)) (sigma : 'rV[R]_k) G :
  isometry J A -> isometry J B -> (forall i, J (sigma 0 i) = sigma 0 i) -> P G = A *m diag_mx sigma *m B^H ->
  inner J G (P (A *m B^H)) = \sum_i sigma 0 i.
Proof.
move=> isoA isoB real PG; rewrite -projector_self_adjoint // PG inner_mulr adjK (isoK _ isoB) inner_mull isoA.
rewrite /inner mulmx1 trace_adj mxtrace_diag rmorph_sum; apply: eq_bigr => i _; exact: real.
Qed.

Theorem polar_square k (A : 'M[R]_(m, k)) (B : 'M[R]_(n, k)) :
  isometry J A -> isometry J B -> square (A *m B^H) = k%:R.
Proof. by move=> isoA isoB; rewrite inner_mulr adjK (isoK _ isoB) /inner isoA mxtrace1. Qed.

Theorem projection_shortens Z : square (P Z) <= square Z.
Proof.
rewrite -subr_ge0; have -> : square Z - square (P Z) = square (Z - P Z); last exact: squares.
have PP := projector_square isoU isoV Z.
move: (P Z) PP => Y ZY; rewrite !(innerDl, innerDr, innerNl, innerNr) (inner_sym J Z Y) ZY -inner_sym; ring.
Qed.
End Directions.

(* Real and complex numbers are such numbers. *)
Lemma real_squares (R : realFieldType) (x : R) : 0 <= no_conjugate R x * x.
Proof. by rewrite -expr2 sqr_ge0. Qed.
Lemma complex_squares (C : numClosedFieldType) (x : C) : 0 <= conjugate C x * x.
Proof. by rewrite mulrC mul_conjC_ge0. Qed.

(* Control: the polar factor must be projected.  Z = 1 is orthogonal, but <1, Z> = 2 and <1, P Z> = 1. *)
Lemma unprojected_polar_is_wrong : exists (e : 'cV[rat]_2) (G : 'M[rat]_2), let J := no_conjugate rat in
  [/\ isometry J e, isometry J G & inner J G G <> inner J G (proj J e e G)].
Proof.
exists (delta_mx 0 0), 1%:M; set J := no_conjugate rat; set e := delta_mx 0 0 => /=.
have iso : isometry J e.
  by rewrite /isometry /adj map_mx_id // trmx_delta mul_delta_mx; apply/matrixP => i j; rewrite !ord1 !mxE.
split=> //; first by rewrite /isometry adj1 mulmx1.
have -> : proj J e e 1%:M = e *m adj J e by rewrite /proj; expand; rewrite (isoK _ iso); entries.
by rewrite /inner adj1 !mul1mx mxtrace_mulC iso !mxtrace1.
Qed.
