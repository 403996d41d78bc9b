(* The constant 4/3 of projection_norm.v is attained (docs/theory/directions.md), so no smaller one is true: the
   negative control of that file.  Nothing is assumed. *)
From mathcomp Require Import all_ssreflect all_algebra ring.
From GeoLoRA Require Import setting projection_norm.
Import Order.TTheory GRing.Theory Num.Theory.

(* With e = (1, 0, 0) and f = (0, 1, 1), for U = V = e, the matrix
   Z = e e^T + e f^T + f e^T - f f^T / 2 has the bound 3, and P Z reaches 4/3 * 3 at x = y = 2 e + f. *)
Section Attained.
Variables (C : numClosedFieldType) (n : nat) (e f : 'cV[C]_n).
Let J := conjugate C.
Notation "A ^H" := (adj J A) (at level 2, format "A ^H").
Hypotheses (ee : e^H *m e = 1%:M) (ef : e^H *m f = 0) (fe : f^H *m e = 0) (ff : f^H *m f = 2%:M).
Let Z := e *m e^H + e *m f^H + f *m e^H - 2^-1 *: (f *m f^H).
Let x := 2 *: e + f.

Lemma eigenvector : inner J x x = 6 /\ proj J e e Z *m x = 2 *: x.
Proof.
have rE p (M : 'M_(p, 1)) : (M *m e^H *m e = M) * (M *m e^H *m f = 0) by rewrite -!mulmxA ee ef mulmx1 mulmx0.
have rF p (M : 'M_(p, 1)) : (M *m f^H *m e = 0) * (M *m f^H *m f = 2 *: M).
  by rewrite -!mulmxA fe ff mulmx0 mul_mx_scalar.
split; last first.
  have Ze : Z *m e = e + f.
    by rewrite /Z !(mulmxDl, mulNmx, mulZmx) -!(mulmxA _ _ e) ee fe !mulmx1 !mulmx0 scaler0 addr0 subr0.
  have Zf : Z *m f = 2 *: e - f.
    by rewrite /Z !(mulmxDl, mulNmx,
      mulZmx) -!(mulmxA _ _ f) ef ff !mul_mx_scalar !mulmx0 scalerA mulVf ?pnatr_eq0 // scale1r add0r addr0.
  move: Ze Zf; rewrite /x; move: Z => Y Ye Yf.
  have rY p (M : 'M_(p, n)) : (M *m Y *m e = M *m e + M *m f) * (M *m Y *m f = 2 *: (M *m e) - M *m f).
    by rewrite -!mulmxA Ye Yf; expand.
  rewrite /proj; expand; rewrite ?(rE, rY, Ye, Yf); expand; rewrite ?(rE, ef); expand; entries.
rewrite /x !(innerDl, innerDr, innerZl, innerZr) /inner ee ef fe ff !mxtrace0 !mxtrace_scalar /= conjC_nat; ring.
Qed.

Lemma two_vectors (a b p q : C) : `|a * p + b * q| ^+ 2 <= (`|a| ^+ 2 + `|b| ^+ 2 / 2) * (`|p| ^+ 2 + 2 * `|q| ^+ 2).
Proof.
rewrite -subr_ge0 !normCK !(rmorphD, rmorphM) /=; have : 0 <= (2 * a * q^* - b * p^*) * (2 * a * q^* - b * p^*)^* / 2.
  by rewrite divr_ge0 ?ler0n // mul_conjC_ge0.
by rewrite rmorphB !rmorphM /= !conjCK conjC_nat; congr (0 <= _); field.
Qed.

Lemma bessel (y : 'cV_n) (c := \tr (e^H *m y)) (d := \tr (f^H *m y)) : `|c| ^+ 2 + `|d| ^+ 2 / 2 <= inner J y y.
Proof.
have : 0 <= inner J (y - c *: e - (d / 2) *: f) (y - c *: e - (d / 2) *: f).
  rewrite /inner /mxtrace sumr_ge0 // => j _; rewrite mxE sumr_ge0 // => i _; rewrite adjE mulrC; exact: mul_conjC_ge0.
have [Iee Ief Ife Iff] : [/\ inner J e e = 1, inner J e f = 0, inner J f e = 0 & inner J f f = 2].
  by rewrite /inner ee ef fe ff mxtrace1 mxtrace0 mxtrace_scalar.
have Jd : J (d / 2) = d^* / 2 by rewrite /= rmorphM /= fmorphV /= conjC_nat.
rewrite !(innerDl, innerDr, innerNl, innerNr, innerZl, innerZr) (inner_sym J e y) (inner_sym J f y) Iee Ief Ife Iff Jd.
have [-> ->] : inner J e y = c /\ inner J f y = d by [].
by move=> nonneg; rewrite -subr_ge0 !normCK; move: nonneg; move: c d {Jd} => c d; congr (0 <= _) => /=; field.
Qed.

Lemma bounded_by_three : bounded Z 3.
Proof.
move=> u y; set a := (\tr (e^H *m u))^*; set b := (\tr (f^H *m u))^*.
set c := \tr (e^H *m y); set d := \tr (f^H *m y).
have -> : \tr (u^H *m Z *m y) = a * (c + d) + b * (c - d / 2).
  have tr2 (v w : 'cV[C]_n) : \tr (u^H *m (v *m w^H) *m y) = (\tr (v^H *m u))^* * \tr (w^H *m y).
    have -> : u^H *m (v *m w^H) *m y = (u^H *m v) *m (w^H *m y) by rewrite !mulmxA.
    have scalar (M : 'M[C]_1) : M = (\tr M)%:M by rewrite [LHS]mx11_scalar /mxtrace big_ord1.
    rewrite [u^H *m v]scalar [w^H *m y]scalar -scalar_mxM mxtrace_scalar mulr1n; congr (_ * _).
      by rewrite -[RHS](trace_adj J); expand.
    by rewrite mxtrace_scalar mulr1n.
  rewrite /Z mulmxBr !mulmxDr mulmxBl !mulmxDl mulmxZ mulZmx raddfB /= !mxtraceD mxtraceZ !tr2 -/a -/b -/c -/d.
  by move: a b c d => a b c d; field.
apply: le_trans (two_vectors _ _ _ _) _.
have -> : `|c + d| ^+ 2 + 2 * `|c - d / 2| ^+ 2 = 3 * (`|c| ^+ 2 + `|d| ^+ 2 / 2).
  by rewrite !normCK rmorphD rmorphB rmorphM /= fmorphV /= conjC_nat; field.
have := bessel u; have := bessel y; rewrite -/c -/d /a /b !norm_conjC => By Bu.
rewrite mulrA [_ * 3]mulrC; apply: ler_pM => //;
  first by rewrite mulr_ge0 ?addr_ge0 ?mulr_ge0 ?exprn_ge0 ?invr_ge0 ?ler0n.
  by rewrite addr_ge0 ?mulr_ge0 ?exprn_ge0 ?invr_ge0 ?ler0n.
by rewrite ler_wpM2l ?ler0n.
Qed.
End Attained.

Lemma four_thirds_is_attained (C : numClosedFieldType) : exists (e : 'cV[C]_3) (Z : 'M[C]_3) (x : 'cV[C]_3),
  let J := conjugate C in [/\ isometry J e, bounded Z 3, 0 < inner J x x &
    `|\tr (adj J x *m proj J e e Z *m x)| ^+ 2 = 4 / 3 * 3 * inner J x x * inner J x x].
Proof.
pose J := conjugate C; pose e : 'cV[C]_3 := delta_mx 0 0; pose f : 'cV[C]_3 := delta_mx 1 0 + delta_mx 2%:R 0.
have unit (i j : 'I_3) : adj J (delta_mx i 0 : 'cV_3) *m (delta_mx j 0 : 'cV_3) = (i == j)%:R%:M.
  rewrite /adj trmx_delta map_delta_mx mul_delta_mx_cond.
  by apply/matrixP => k l; rewrite !ord1; case: eqP => _; rewrite !mxE.
have ee : adj J e *m e = 1%:M by rewrite unit.
have ef : adj J e *m f = 0 by rewrite mulmxDr !unit raddf0 addr0.
have fe : adj J f *m e = 0 by rewrite adjD mulmxDl !unit raddf0 addr0.
have ff : adj J f *m f = 2%:M by rewrite adjD mulmxDl !mulmxDr !unit raddf0 addr0 add0r -raddfD.
have [xx Px] := eigenvector ee ef fe ff; move: (bounded_by_three ee ef fe ff) xx Px.
set Z := _ - _; set x := _ + _ => bZ xx Px; exists e, Z, x; split=> //; first by rewrite xx ltr0n.
by rewrite -mulmxA Px mulmxZ mxtraceZ -[\tr _]/(inner J x x) xx ger0_norm ?mulr_ge0 ?ler0n //; field.
Qed.
