(* The projection raises the spectral norm by at most 2 / sqrt 3 (docs/theory/directions.md).

   |x^H Z y|^2 <= b |x|^2 |y|^2 for all x, y says that the spectral norm of Z is at most sqrt b; no singular
   values are needed.  Proved: P Z has the bound 4/3 b, and a rational instance attains it.  In the proof
   x^H (PZ) y = (x1 + x2)^H Z (y1 + y2/2) + 1/2 (x1 - x2)^H Z y2 with x1, y1 in the ranges of U, V and x2, y2
   normal to them: the factorisation of the Schur multiplier [[1, 1], [1, 0]].  Nothing is assumed. *)
From mathcomp Require Import all_ssreflect all_algebra ring.
From GeoLoRA Require Import setting.
Import Order.TTheory GRing.Theory Num.Theory.

Section ProjectionNorm.
Variables (C : numClosedFieldType) (m n r s : nat) (U : 'M[C]_(m, r)) (V : 'M[C]_(n, s)).
Let J := conjugate C.
Notation "A ^H" := (adj J A) (at level 2, format "A ^H").
Hypotheses (isoU : isometry J U) (isoV : isometry J V).
Notation form x Z y := (\tr (x^H *m Z *m y)).
Definition bounded p q (Z : 'M[C]_(p, q)) b := forall (x : 'cV_p) (y : 'cV_q),
  `|form x Z y| ^+ 2 <= b * inner J x x * inner J y y.

Lemma weighted_triangle (a b : C) : `|a + b| ^+ 2 <= 4 / 3 * `|a| ^+ 2 + 4 * `|b| ^+ 2.
Proof.
rewrite -subr_ge0 !normCK rmorphD /=; have : 0 <= (a - 3 * b) * (a - 3 * b)^* / 3.
  by rewrite divr_ge0 ?ler0n // mul_conjC_ge0.
by rewrite rmorphB rmorphM /= conjC_nat; congr (0 <= _); field.
Qed.

Lemma split_vector k l (B : 'M[C]_(k, l)) (x : 'cV_k) : isometry J B -> let x1 := B *m B^H *m x in
  x1^H *m (x - x1) = 0 /\ (x - x1)^H *m x1 = 0.
Proof. by move=> iso x1; split; rewrite /x1; expand; rewrite !(isoK _ iso) subrr. Qed.

Lemma pythagoras k (x1 x2 : 'cV[C]_k) a : x1^H *m x2 = 0 -> x2^H *m x1 = 0 ->
  inner J (x1 + a *: x2) (x1 + a *: x2) = inner J x1 x1 + a^* * a * inner J x2 x2.
Proof.
move=> o12 o21; rewrite innerDl !innerDr !innerZl !innerZr.
by rewrite /inner o12 o21 !mxtrace0 !mulr0 addr0 add0r mulrA.
Qed.

Theorem projection_norm Z b : 0 <= b -> bounded Z b -> bounded (proj J U V Z) (4 / 3 * b).
Proof.
move=> b0 bound x y; have [x12 x21] := split_vector x isoU; have [y12 y21] := split_vector y isoV.
move: x12 x21 y12 y21; set x1 := U *m U^H *m x; set y1 := V *m V^H *m y.
set x2 := x - x1; set y2 := y - y1 => x12 x21 y12 y21.
have -> : form x (proj J U V Z) y = form (x1 + x2) Z (y1 + 2^-1 *: y2) + 2^-1 * form (x1 - x2) Z y2.
  rewrite /x2 /y2 /x1 /y1 /proj -mxtraceZ -mxtraceD; congr (\tr _); expand.
  by apply/matrixP => i j; rewrite ?(addE, oppE, scaleE); field.
have half : (2^-1)^* * 2^-1 = 4^-1 :> C by rewrite fmorphV /= conjC_nat; field.
have squares : [/\ inner J x x = inner J x1 x1 + inner J x2 x2, inner J y y = inner J y1 y1 + inner J y2 y2,
    inner J (x1 + x2) (x1 + x2) = inner J x x, inner J (x1 - x2) (x1 - x2) = inner J x x
    & inner J (y1 + 2^-1 *: y2) (y1 + 2^-1 *: y2) = inner J y1 y1 + 4^-1 * inner J y2 y2].
  have sx a := pythagoras a x12 x21; have sy a := pythagoras a y12 y21.
  have Ex : x = x1 + 1 *: x2 by rewrite scale1r addrC subrK.
  have Ey : y = y1 + 1 *: y2 by rewrite scale1r addrC subrK.
  have Exx : inner J x x = inner J x1 x1 + inner J x2 x2 by rewrite {1 2}Ex sx rmorph1 mulr1 mul1r.
  split; rewrite ?sy ?half //; first by rewrite {1 2}Ey sy rmorph1 mulr1 mul1r.
    by rewrite -[x2]scale1r sx rmorph1 mulr1 mul1r -Exx.
  by rewrite -scaleN1r sx rmorphN1 mulrNN mulr1 mul1r -Exx.
have [Ex Ey xp xm yp] := squares; apply: le_trans (weighted_triangle _ _) _.
rewrite normrM exprMn ger0_norm ?invr_ge0 ?ler0n //.
have first_part := bound (x1 + x2) (y1 + 2^-1 *: y2); have second_part := bound (x1 - x2) y2.
rewrite xp yp in first_part; rewrite xm in second_part.
have c1 : 0 <= 4 / 3 :> C by rewrite divr_ge0 ?ler0n.
have c2 : 0 <= 4 * 2^-1 ^+ 2 :> C by rewrite mulr_ge0 ?exprn_ge0 ?invr_ge0 ?ler0n.
apply: le_trans (lerD (ler_wpM2l c1 first_part) _) _; first by rewrite mulrA; exact: (ler_wpM2l c2 second_part).
by rewrite le_eqVlt; apply/orP; left; apply/eqP; rewrite Ey; field.
Qed.
End ProjectionNorm.

