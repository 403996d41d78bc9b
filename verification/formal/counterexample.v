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
Proof. by rewrite /isometry /adj /e1 map_mx_id // trmx_delta mul_delta_mx; apply/matrixP => i j;
  rewrite !ord1 !mxE. Qed.

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
rewrite /G; split; first by rewrite -mulmxA e1_iso mulmx1; apply/matrixP => i j; rewrite !mxE; case: ifP;
  rewrite ?sgr1 // gtr0_sg.
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

(* The same in rational numbers: ten rows, u = 4/5, s = 1/5, e < 1/25. *)
Theorem rational_counterexample (e : rat) : 0 < e -> e < 1 / 25 -> let J := no_conjugate rat in
  let U := two_values 9 (4 / 5) (1 / 5) in let G := two_values 9 1 e *m adj J (e1 rat 1) in
  isometry J U /\ proj J U (e1 rat 1) G = G /\ inner J G (own_core U (e1 rat 1) G) < 0.
Proof.
move=> e0 e_small; have [u0 s0] : 0 < 4 / 5 :> rat /\ 0 < 1 / 5 :> rat by split; lra.
split; first by rewrite /isometry scalar_inner inner_two_values; congr _%:M; field.
by split; [exact: (tangential 9 1 (4 / 5) (1 / 5) e) | rewrite (own_slope 9 1 u0 s0 e0); lra].
Qed.
