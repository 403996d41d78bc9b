(* From which size on Adam as published goes uphill (docs/theory/directions.md): u = 1 / sqrt 2, s = 1 / sqrt (2 k),
   m = k + 1 rows, the state of counterexample.v.  Nothing is assumed. *)
From mathcomp Require Import all_ssreflect all_algebra ring lra.
From GeoLoRA Require Import setting counterexample.
Import Order.TTheory GRing.Theory Num.Theory.

Section Thresholds.
Variables (R : rcfType) (k n : nat).
Let u : R := Num.sqrt 2^-1.
Let w : R := Num.sqrt k%:R.
Let s := u / w.
Let U := two_values k u s.
Let G e := two_values k 1 e *m adj (no_conjugate R) (e1 R n).
Notation slope_own e := (inner (no_conjugate R) (G e) (own_core U (e1 R n) (G e))).
Notation slope_shared e := (inner (no_conjugate R) (G e) (shared_core U (e1 R n) (G e))).

Lemma numbers : (0 < k)%N -> [/\ 0 < u, 0 < s, u * u = 2^-1, k%:R * s = u * w & w * w = k%:R].
Proof.
move=> k_gt0; have w0 : 0 < w by rewrite sqrtr_gt0 ltr0n.
have ww : w * w = k%:R by rewrite -expr2 sqr_sqrtr ?ler0n.
have u0 : 0 < u by rewrite sqrtr_gt0 invr_gt0 ltr0n.
have uu : u * u = 2^-1 by rewrite -expr2 sqr_sqrtr // invr_ge0 ler0n.
split=> //; first by rewrite divr_gt0.
by rewrite -ww /s; field; rewrite gt_eqF.
Qed.

Lemma unit_vector : (0 < k)%N -> isometry (no_conjugate R) U.
Proof.
move=> k_gt0; have [u0 s0 uu ks ww] := numbers k_gt0.
rewrite /isometry scalar_inner inner_two_values mulrA ks -mulrA (mulrC w) /s divfK ?uu; last first.
  by rewrite sqrtr_eq0 -ltNge ltr0n.
by congr _%:M; field.
Qed.
Lemma u_small : (0 < k)%N -> u < 3 / 4.
Proof. by move=> /numbers[u0 _ uu _ _]; nra. Qed.

Lemma affine_negative (A B : R) : A < 0 -> exists2 d, 0 < d & forall e, 0 < e < d -> A + e * B < 0.
Proof.
move=> A0; have C0 : 0 < 1 + `|B| by rewrite ltr_wpDr.
exists (- A / (1 + `|B|)); first by rewrite divr_gt0 // oppr_gt0.
move=> e /andP[e0]; rewrite ltr_pdivlMr // mulrDr mulr1 => eA.
have : e * B <= e * `|B| by rewrite ler_pM2l // ler_norm.
lra.
Qed.

(* From m = k + 1 = 7 on, for small e, with Adam's own core ... *)
Theorem own_core_goes_uphill : (6 <= k)%N -> exists2 d, 0 < d & forall e, 0 < e < d -> slope_own e < 0.
Proof.
move=> k6; have k0 : (0 < k)%N by apply: leq_trans k6.
have [u0 s0 uu ks ww] := numbers k0; have u34 := u_small k0.
have w6 : 6%:R <= w * w by rewrite ww ler_nat.
have w0 : 0 <= w by rewrite sqrtr_ge0.
have A0 : u + 1 - u * (u + u * w) < 0 by rewrite mulrDr mulrA uu; nra.
have [d d0 dP] := affine_negative (k%:R * (s + 1 - s * (u + u * w))) A0; exists d => // e e_d.
rewrite own_slope ?(andP e_d).1 // ks; have := dP e e_d; congr (_ < 0); ring.
Qed.

(* ... and from m = 21 on with a core that K and L share. *)
Theorem shared_core_goes_uphill : (20 <= k)%N -> exists2 d, 0 < d & forall e, 0 < e < d -> slope_shared e < 0.
Proof.
move=> k20; have k0 : (0 < k)%N by apply: leq_trans k20.
have [u0 s0 uu ks ww] := numbers k0; have u34 := u_small k0.
have w20 : 20%:R <= w * w by rewrite ww ler_nat.
have w0 : 0 <= w by rewrite sqrtr_ge0.
have A0 : u + 1 - u * (u + u * w) + u * ((u + u * w - 1) / 2) < 0.
  rewrite (_ : _ + _ = u + 1 - u * u * (1 + w) + (u * u * (1 + w) - u) / 2); last by field.
  by rewrite uu; nra.
have [d d0 dP] := affine_negative (k%:R * (s + 1 - s * (u + u * w)) + k%:R * s * ((u + u * w - 1) / 2)) A0.
exists d => // e e_d; rewrite shared_slope ?(andP e_d).1 // ks; have := dP e e_d; congr (_ < 0); rewrite !mulrDr; ring.
Qed.

(* Control: with m = 6 the same direction descends for every e. *)
Lemma six_rows_descend e : k = 5 -> 0 < e -> 0 < slope_own e.
Proof.
move=> k5 e0; have k0 : (0 < k)%N by rewrite k5.
have [u0 s0 uu ks ww] := numbers k0; have u34 := u_small k0.
have w5 : w * w = 5%:R by rewrite ww k5.
have w0 : 0 <= w by rewrite sqrtr_ge0.
have sw : s * w = u by rewrite /s divfK // gt_eqF // sqrtr_gt0 ltr0n.
have A0 : 0 < u + 1 - u * (u + u * w) by rewrite mulrDr mulrA uu; nra.
have B0 : 0 < s + 1 - s * (u + u * w).
  by rewrite mulrDr (mulrC u w) [s * (w * u)]mulrA sw uu; nra.
by rewrite own_slope // ks addr_gt0 // mulr_gt0 // mulr_gt0 // ltr0n.
Qed.
End Thresholds.
