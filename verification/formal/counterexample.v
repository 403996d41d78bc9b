(* Adam as published can go uphill from its first step (docs/theory/directions.md).

   The state U = (u, s, ..., s)^T, V = e_1, and the wholly tangential gradient G = (1, e, ..., e)^T e_1^T.
   Adam's first step takes signs entry by entry.  Nothing is assumed. *)
From mathcomp Require Import all_ssreflect all_algebra ring lra.
From GeoLoRA Require Import setting.
Import Order.TTheory GRing.Theory Num.Theory.

Section Counterexample.
Variables (R : realFieldType) (k n : nat).
Let J := no_conjugate R.
Notation "A ^H" := (adj J A) (at level 2, format "A ^H").
Definition two_values (a b : R) : 'cV[R]_k.+1 := \col_i if i == 0 then a else b.
Definition e1 : 'cV[R]_n.+1 := delta_mx 0 0.
Definition signs p q (A : 'M[R]_(p, q)) := map_mx Num.sg A.
(* What lines 3 to 5 make of any D_K, D_L, D_S: W_hat = W - lambda times this. *)
Definition direction (U : 'cV[R]_k.+1) (V : 'cV[R]_n.+1) (D_K : 'cV[R]_k.+1) (D_L : 'cV[R]_n.+1) (D_S : 'M[R]_1) :=
  U *m D_S *m V^H + (1%:M - U *m U^H) *m D_K *m V^H + U *m D_L^H *m (1%:M - V *m V^H).
Definition own_core U V G := direction U V (signs (G *m V)) (signs (G^H *m U)) (signs (U^H *m G *m V)).
Definition shared_core U V G := let D_K := signs (G *m V) in let D_L := signs (G^H *m U) in
  direction U V D_K D_L (2^-1 *: (U^H *m D_K + D_L^H *m V)).

Variables (u s e : R).
Hypotheses (u_gt0 : 0 < u) (s_gt0 : 0 < s) (e_gt0 : 0 < e).
Let U := two_values u s.
Let G := two_values 1 e *m e1^H.

Lemma e1_iso : isometry J e1.
Proof. by rewrite /isometry /adj /e1 map_mx_id // trmx_delta mul_delta_mx; apply/matrixP => i j; rewrite !ord1 !mxE. Qed.

Lemma inner_two_values a b c d : inner J (two_values a b) (two_values c d) = a * c + k%:R * (b * d).
Proof.
rewrite /inner /mxtrace big_ord1 mxE big_ord_recl !mxE /= (eq_bigr (fun=> b * d)) => [|i _]; last by rewrite !mxE.
by rewrite sumr_const card_ord mulr_natl.
Qed.

Lemma scalar_inner (x y : 'cV[R]_k.+1) : x^H *m y = (inner J x y)%:M.
Proof. by apply/matrixP => i j; rewrite !ord1 /inner /mxtrace big_ord1 [RHS]mxE. Qed.

Lemma tangential : proj J U e1 G = G.
Proof. by rewrite /proj /G; expand; rewrite !(isoK _ e1_iso); entries. Qed.

(* <G, D> for the signs and any core sigma *)
Lemma slope sigma : signs (G *m e1) = two_values 1 1 /\ signs (G^H *m U) = e1 /\ signs (U^H *m G *m e1) = 1%:M /\
  inner J G (direction U e1 (two_values 1 1) e1 sigma%:M) =
  (u + k%:R * (e * s)) * sigma + (1 + k%:R * e) - (u + k%:R * (e * s)) * (u + k%:R * s).
Proof.
have ks : 0 < u + k%:R * (e * s) by rewrite ltr_wpDr // mulr_ge0 ?ler0n // mulr_ge0 // ltW.
rewrite /G; split; first by rewrite -mulmxA e1_iso mulmx1; apply/matrixP => i j; rewrite !mxE; case: ifP; rewrite ?sgr1 // gtr0_sg.
split; [|split].
- rewrite adjM adjK -mulmxA scalar_inner inner_two_values mul1r mul_mx_scalar.
  by apply/matrixP => i j; rewrite !mxE; case: (_ && _); rewrite ?mulr0 ?sgr0 // mulr1 gtr0_sg.
- rewrite mulmxA (isoK _ e1_iso) scalar_inner inner_two_values mulr1 (mulrC s).
  by apply/matrixP => i j; rewrite !ord1 !mxE gtr0_sg.
have -> : inner J (two_values 1 e *m e1^H) (direction U e1 (two_values 1 1) e1 sigma%:M) =
    inner J (two_values 1 e) (sigma *: U + two_values 1 1 - (u + k%:R * s) *: U).
  rewrite inner_mulr adjK /direction; expand; rewrite !(isoK _ e1_iso) subrr addr0 mul_mx_scalar -(mulmxA U).
  by rewrite scalar_inner inner_two_values mul_mx_scalar !mulr1 addrA.
by rewrite !(innerDr, innerNr, innerZr) !inner_two_values; ring.
Qed.

Theorem own_slope : inner J G (own_core U e1 G) =
  u + 1 - u * (u + k%:R * s) + k%:R * e * (s + 1 - s * (u + k%:R * s)).
Proof.
by have [K [L [S D]]] := slope 1; rewrite /own_core K L S D; ring.
Qed.

Theorem shared_slope : inner J G (shared_core U e1 G) =
  u + 1 - u * (u + k%:R * s) + k%:R * e * (s + 1 - s * (u + k%:R * s))
  + (u + k%:R * (e * s)) * ((u + k%:R * s - 1) / 2).
Proof.
have [K [L [S D]]] := slope ((u + k%:R * s + 1) / 2); rewrite /shared_core K L.
have -> : 2^-1 *: (U^H *m two_values 1 1 + e1^H *m e1) = ((u + k%:R * s + 1) / 2)%:M.
  by rewrite scalar_inner inner_two_values !mulr1 e1_iso -raddfD scale_scalar_mx mulrC.
by rewrite D; field.
Qed.
End Counterexample.

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

(* The same in rational numbers: ten rows, u = 4/5, s = 1/5, e < 1/25. *)
Theorem rational_counterexample (e : rat) : 0 < e -> e < 1 / 25 -> let J := no_conjugate rat in
  let U := two_values 9 (4 / 5) (1 / 5) in let G := two_values 9 1 e *m adj J (e1 rat 1) in
  isometry J U /\ proj J U (e1 rat 1) G = G /\ inner J G (own_core U (e1 rat 1) G) < 0.
Proof.
move=> e0 e_small; have [u0 s0] : 0 < 4 / 5 :> rat /\ 0 < 1 / 5 :> rat by split; lra.
split; first by rewrite /isometry scalar_inner inner_two_values; congr _%:M; field.
by split; [exact: (tangential 9 1 (4 / 5) (1 / 5) e) | rewrite (own_slope 9 1 u0 s0 e0); lra].
Qed.
