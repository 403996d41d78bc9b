(* Rounding of sums in binary64, to nearest with any rule for ties: the gamma_n of n terms that are added one by one.
   Over the real numbers of Coq's library, which rest on its classical axioms. *)
From Coq Require Import Reals Lra Psatz ZArith.
From Flocq Require Import Core Relative Plus_error.
From GeoLoRA Require Import rounding.
Open Scope R_scope.

Section Sums.
Variable ties : Z -> bool.
Notation binary64 := (generic_format radix2 (FLT_exp (-1074) 53)).
Notation fl := (round radix2 (FLT_exp (-1074) 53) (Znearest ties)).
Local Instance prec : Prec_gt_0 53 := eq_refl.

Lemma fl_sum x y : binary64 x -> binary64 y -> Rabs (fl (x + y) - (x + y)) <= u * Rabs (x + y).
Proof.
intros Fx Fy; destruct (FLT_plus_error_N_ex radix2 (-1074) 53 ties x y Fx Fy) as [e [e_small ->]].
assert (Rabs e <= u).
{ apply Rle_trans with (1 := e_small), Rle_trans with (u_ro radix2 53).
  - apply u_rod1pu_ro_le_u_ro.
  - unfold u_ro, u; simpl; lra. }
replace (_ - _) with (e * (x + y)) by ring; rewrite Rabs_mult; apply Rmult_le_compat_r; [apply Rabs_pos | assumption].
Qed.

Fixpoint computed (a : nat -> R) n := match n with O => 0 | S m => fl (computed a m + a m) end.
Fixpoint exact (a : nat -> R) n := match n with O => 0 | S m => exact a m + a m end.

Lemma format_computed a n : binary64 (computed a n).
Proof. destruct n; [apply generic_format_0 | apply (format_fl ties)]. Qed.
Lemma exact_below a n : Rabs (exact a n) <= exact (fun i => Rabs (a i)) n.
Proof.
induction n; simpl; [rewrite Rabs_R0; lra |].
apply Rle_trans with (1 := Rabs_triang _ _); lra.
Qed.

(* A sum of n terms, of any sign, has the error gamma_n of the sum of their moduli. *)
Theorem sum_error a n : (forall i, binary64 (a i)) ->
  Rabs (computed a n - exact a n) <= ((1 + u) ^ n - 1) * exact (fun i => Rabs (a i)) n.
Proof.
intros Fa; assert (U := u_small); induction n; simpl; [rewrite Rminus_diag, Rabs_R0; lra |].
assert (E := fl_sum _ _ (format_computed a n) (Fa n)).
assert (B := exact_below a n); assert (A := Rabs_pos (a n)).
assert (G : 1 <= (1 + u) ^ n) by (apply pow_R1_Rle; lra).
set (s := computed a n) in *; set (e := exact a n) in *.
set (m := exact (fun i => Rabs (a i)) n) in *; set (g := (1 + u) ^ n) in *.
assert (S : Rabs (s + a n) <= g * m + Rabs (a n)).
{ assert (T1 := Rabs_triang (s - e + e) (a n)); assert (T2 := Rabs_triang (s - e) e).
  replace (s - e + e) with s in * by ring; lra. }
replace (_ - _) with ((fl (s + a n) - (s + a n)) + (s - e)) by ring.
apply Rle_trans with (1 := Rabs_triang _ _).
assert (M := Rmult_le_compat_l u _ _ ltac:(lra) S).
assert (0 <= (g - 1) * Rabs (a n)) by (apply Rmult_le_pos; lra).
assert (0 <= u * ((g - 1) * Rabs (a n))) by (apply Rmult_le_pos; lra).
nra.
Qed.

Theorem gamma n : INR n * u < 1 -> (1 + u) ^ n - 1 <= INR n * u / (1 - INR n * u).
Proof.
intros nu; assert (U := u_small).
assert (P : (1 + u) ^ n * (1 - INR n * u) <= 1).
{ clear nu; induction n; [simpl; lra |].
  rewrite S_INR; assert (N := pos_INR n); assert (0 < (1 + u) ^ n) by (apply pow_lt; lra).
  simpl pow; apply Rle_trans with (2 := IHn).
  replace (_ * _ * _) with ((1 + u) ^ n * (1 - INR n * u - (INR n + 1) * (u * u))) by ring.
  apply Rmult_le_compat_l; [lra |]; assert (0 <= (INR n + 1) * (u * u)) by nra; lra. }
apply Rmult_le_reg_r with (1 - INR n * u); [lra |].
unfold Rdiv; rewrite Rmult_assoc, Rinv_l by lra; lra.
Qed.

(* Controls. *)
Lemma relative_to_the_sum_wrong : ~ (forall a n, (forall i, binary64 (a i)) ->
  Rabs (computed a n - exact a n) <= ((1 + u) ^ n - 1) * Rabs (exact a n)).
Proof.
assert (F1 : binary64 1) by (apply (generic_format_FLT_bpow radix2 _ 53 0); lia).
intros H; specialize (H (fun i => match i with 0%nat => 1 | 1%nat => big | _ => - big end) 3%nat).
assert (U := u_small); revert H; simpl.
rewrite Rplus_0_l, (fl_exact ties 1 F1), Rplus_comm, (Rplus_comm 1), (proj1 (big_swallows ties 1 ltac:(lra))).
rewrite Rplus_opp_l, (fl_exact ties 0) by apply generic_format_0; intros H.
specialize (H ltac:(intros [|[|i]]; [exact F1 | apply format_big | apply generic_format_opp, format_big])).
replace (0 - (big + 1 + - big)) with (- (1)) in H by ring; replace (big + 1 + - big) with 1 in H by ring.
rewrite Rabs_Ropp, Rabs_R1 in H; nra.
Qed.

Lemma gamma_without_denominator_wrong : ~ (forall n, INR n * u < 1 -> (1 + u) ^ n - 1 <= INR n * u).
Proof. intros H; specialize (H 2%nat); assert (U := u_small); simpl in H; nra. Qed.
End Sums.
