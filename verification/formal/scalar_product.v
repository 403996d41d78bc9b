(* Scalar products over ordered numbers: of real matrices trace(A^T B), of complex ones its real part.  Nothing
   is assumed; Cauchy-Schwarz without square roots. *)
From mathcomp Require Import all_ssreflect all_algebra ring lra.
From GeoLoRA Require Import setting.
Import Order.TTheory GRing.Theory Num.Theory.

Record scalar_product (R : realFieldType) (E : lmodType R) := ScalarProduct { dot :> E -> E -> R;
  dotC : forall x y, dot x y = dot y x; dotD : forall x y z, dot x (y + z) = dot x y + dot x z;
  dotZ : forall x a y, dot x (a *: y) = a * dot x y; dot_ge0 : forall x, 0 <= dot x x }.

Section ScalarProduct.
Variables (R : realFieldType) (E : lmodType R) (d : scalar_product E).
Lemma dot_combination a b x y : d (a *: x + b *: y) (a *: x + b *: y) =
  a ^+ 2 * d x x + 2 * a * b * d x y + b ^+ 2 * d y y.
Proof. by rewrite !(dotD, dotZ) ![d (_ + _) _]dotC !(dotD, dotZ) (dotC d y x); ring. Qed.
Lemma cauchy_schwarz x y : d x y ^+ 2 <= d x x * d y y.
Proof.
have [x0 | x0] := eqVneq (d x x) 0; last first.
  have := dot_ge0 d ((- (d x y / d x x)) *: x + 1 *: y); rewrite dot_combination.
  rewrite (_ : _ + _ = (d x x * d y y - d x y ^+ 2) / d x x); last by field.
  by rewrite pmulr_lge0 ?invr_gt0 ?lt0r ?x0 ?dot_ge0 // subr_ge0.
have := dot_ge0 d ((- (d y y + 1 + 1)) *: x + d x y *: y); rewrite dot_combination x0 mul0r.
by have := dot_ge0 d y; nra.
Qed.
Lemma norm_bound x y a b : 0 <= a -> 0 <= b -> d x x <= a ^+ 2 -> d y y <= b ^+ 2 -> d x y <= a * b.
Proof.
move=> a0 b0 xa yb; rewrite leNgt; apply/negP => above; have := cauchy_schwarz x y; rewrite leNgt => /negP[].
apply: le_lt_trans (ler_pM (dot_ge0 d x) (dot_ge0 d y) xa yb) _; rewrite -exprMn ltr_pXn2r ?nnegrE ?mulr_ge0 //.
by apply: le_trans (ltW above); rewrite mulr_ge0.
Qed.
End ScalarProduct.

Definition trace_product (R : realFieldType) m n : scalar_product 'M[R]_(m, n).
Proof.
apply: (@ScalarProduct R _ (fun X Y => inner (no_conjugate R) X Y)).
- by move=> X Y; rewrite inner_sym.
- by move=> X Y Z; rewrite innerDr.
- by move=> X a Y; rewrite innerZr.
- by move=> X; rewrite /inner /mxtrace sumr_ge0 // => j _; rewrite mxE sumr_ge0 // => i _; rewrite adjE -expr2 sqr_ge0.
Defined.
