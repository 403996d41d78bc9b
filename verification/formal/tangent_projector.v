(* The tangent projector P Z = U U^H Z + Z V V^H - U U^H Z V V^H (docs/theory/setting.md).

   Proved: it is linear, idempotent and self-adjoint; it depends on the ranges of U and V alone; what it
   keeps are the tangent triples, one to one; for invertible S these are the derivatives of curves
   U S V^H of rank r.
   Left on paper: that the matrices of rank r form a manifold. *)
From mathcomp Require Import all_ssreflect all_algebra ring.
From GeoLoRA Require Import setting.
Import GRing.Theory Num.Theory.

Section TangentProjector.
Variables (R : comRingType) (J : involution R) (m n r s : nat).
Variables (U : 'M[R]_(m, r)) (V : 'M[R]_(n, s)).
Hypotheses (isoU : isometry J U) (isoV : isometry J V).
Notation "A ^H" := (adj J A) (at level 2, format "A ^H").
Notation P := (proj J U V).
Theorem projector_complement Z : Z - P Z = (1%:M - U *m U^H) *m Z *m (1%:M - V *m V^H).
Proof. by rewrite /proj; expand; entries. Qed.

Theorem projector_linear a X Y : P (a *: X + Y) = a *: P X + P Y.
Proof. by rewrite /proj; expand; entries. Qed.

Theorem projector_idempotent Z : P (P Z) = P Z.
Proof. by rewrite /proj; expand; rewrite ?(isoK _ isoU) ?(isoK _ isoV); entries. Qed.

Theorem projector_self_adjoint X Y : inner J (P X) Y = inner J X (P Y).
Proof.
have sides Z : P Z = U *m U^H *m Z + Z *m (V *m V^H) - U *m U^H *m Z *m (V *m V^H) by rewrite /proj !mulmxA.
rewrite !sides !(innerDl, innerDr, innerNl, innerNr) !(inner_mulr J (V *m V^H)) !(inner_mull J (U *m U^H)).
by expand.
Qed.

(* <PX, X> = <PX, PX>: the projection shortens, and the slope along it is a square. *)
Corollary projector_square X : inner J X (P X) = inner J (P X) (P X).
Proof. by rewrite [RHS]projector_self_adjoint projector_idempotent. Qed.

Theorem triple_of_projection Z : tangent J U V (P Z *m V) ((P Z)^H *m U) (U^H *m P Z *m V) /\
  of_triple J U V (P Z *m V) ((P Z)^H *m U) (U^H *m P Z *m V) = P Z.
Proof.
split; first by split; expand.
rewrite /of_triple /proj; expand; rewrite ?(isoK _ isoU) ?(isoK _ isoV); entries.
Qed.

Theorem projection_of_triple K L S : tangent J U V K L S -> let D := of_triple J U V K L S in
  [/\ P D = D, D *m V = K, D^H *m U = L & U^H *m D *m V = S].
Proof.
case=> UK SL.
have LV : L^H *m V = S by rewrite SL adjM adjK.
have VL : V^H *m L = S^H by rewrite SL adjK.
have KU : K^H *m U = S^H by rewrite -UK adjM adjK.
have rU p (M : 'M_(p, r)) : (M *m U^H *m K = M *m S) * (M *m L^H *m V = M *m S) by rewrite -!mulmxA UK LV.
have rV p (M : 'M_(p, s)) : (M *m V^H *m L = M *m S^H) * (M *m K^H *m U = M *m S^H) by rewrite -!mulmxA VL KU.
rewrite /proj /of_triple; split; expand; rewrite ?(isoK _ isoU, isoK _ isoV, rU, rV) ?(isoU, isoV, UK, LV, mul1mx);
  entries.
Qed.

(* For invertible S the range of P consists of the derivatives dU S V^H + U dS V^H + U S dV^H. *)
Theorem range_is_tangent_space (S : 'M[R]_(r, s)) (S1 : 'M[R]_(s, r)) Z : S *m S1 = 1%:M -> S1 *m S = 1%:M ->
  P Z = Z <-> exists X A Y, [/\ U^H *m X = 0, V^H *m Y = 0 & Z = X *m S *m V^H + U *m A *m V^H + U *m S *m Y^H].
Proof.
move=> SS1 S1S; split=> [PZ | [X [A [Y [UX VY ->]]]]].
  exists ((1%:M - U *m U^H) *m Z *m V *m S1), (U^H *m Z *m V), ((1%:M - V *m V^H) *m Z^H *m U *m S1^H).
  split; expand; rewrite ?isoU ?isoV; expand; rewrite ?subrr; expand; rewrite ?oppr0 ?addr0 //.
  have S1SK p (M : 'M_(p, s)) : M *m S1 *m S = M by rewrite -mulmxA S1S mulmx1.
  have SS1K p (M : 'M_(p, r)) : M *m S *m S1 = M by rewrite -mulmxA SS1 mulmx1.
  by rewrite ?(S1SK, SS1K) -[in LHS]PZ /proj; entries.
have YV : Y^H *m V = 0 by rewrite -[LHS](adjK J) adjM adjK VY adj0.
have rX p (M : 'M_(p, r)) : M *m U^H *m X = 0 by rewrite -mulmxA UX mulmx0.
have rY p (M : 'M_(p, s)) : M *m Y^H *m V = 0 by rewrite -mulmxA YV mulmx0.
by rewrite /proj; expand; rewrite ?(isoK _ isoU, isoK _ isoV, rX, rY); expand; entries.
Qed.
End TangentProjector.

Section Ranges.
Variables (R : comRingType) (J : involution R).

Theorem same_range m r r1 (U : 'M[R]_(m, r)) (U1 : 'M[R]_(m, r1)) A B :
  isometry J U -> isometry J U1 -> U1 = U *m A -> U = U1 *m B -> U *m adj J U = U1 *m adj J U1.
Proof.
move=> isoU isoU1 U1A UB.
have left : U1 *m adj J U1 *m (U *m adj J U) = U *m adj J U by rewrite mulmxA {1}UB mulmxA isoK // -UB.
have right : U *m adj J U *m (U1 *m adj J U1) = U1 *m adj J U1 by rewrite mulmxA {1}U1A mulmxA isoK // -U1A.
by have := congr1 (@adj R J m m) right; rewrite !adjM !adjK left.
Qed.

Corollary ranges_alone m n r s r1 s1 (U : 'M[R]_(m, r)) (U1 : 'M[R]_(m, r1)) (V : 'M[R]_(n, s)) (V1 : 'M[R]_(n, s1)) Z :
  U *m adj J U = U1 *m adj J U1 -> V *m adj J V = V1 *m adj J V1 -> proj J U V Z = proj J U1 V1 Z.
Proof. by move=> EU EV; rewrite /proj -!(mulmxA _ V) -!(mulmxA _ V1) EU EV. Qed.
End Ranges.

(* Controls: with a transpose in place of the adjoint nothing is idempotent; nor without the third term. *)
Lemma no_conjugate_is_wrong (C : numClosedFieldType) : exists U : 'M[C]_1,
  isometry (conjugate C) U /\ exists Z, let P := proj (no_conjugate C) U U in P (P Z) <> P Z.
Proof.
have ii : 'i * 'i = -1 :> C by rewrite -expr2 sqrCi.
exists 'i%:M; split; first by rewrite /isometry /adj tr_scalar_mx map_scalar_mx -scalar_mxM /= conjCi mulNr ii opprK.
exists 1%:M => /=; set P := proj _ _ _.
have minus_three c : P c%:M = (- 3 * c)%:M.
  rewrite /P /proj /adj /= !tr_scalar_mx !map_scalar_mx /= -!scalar_mxM -!raddfN -!raddfD; congr _%:M.
  by transitivity ('i * 'i * (c + c) - ('i * 'i) ^+ 2 * c); [ring | rewrite ii; ring].
rewrite !minus_three => /matrixP/(_ 0 0); rewrite !mxE /= !mulr1n => /eqP; rewrite -subr_eq0.
by rewrite (_ : _ - _ = 12%:R) ?pnatr_eq0 //; ring.
Qed.

Lemma no_third_term_is_wrong : exists U Z : 'M[rat]_1, isometry (no_conjugate _) U /\
  let P X := U *m adj (no_conjugate _) U *m X + X *m U *m adj (no_conjugate _) U in P (P Z) <> P Z.
Proof.
exists 1%:M, 1%:M; rewrite /isometry !adj1; split; first by rewrite mul1mx.
rewrite /= !mulmx1 !mul1mx; move/matrixP/(_ 0 0); rewrite !mxE; exact/eqP.
Qed.
