(* Rounding of scalar kernels in binary64, to nearest with any rule for ties: the polish (3 - x^2) / 2 of one column and
   the truncation test.  Over the real numbers of Coq's library, which rest on its classical axioms. *)
From Coq Require Import Reals Lra Psatz ZArith.
From Flocq Require Import Core Relative Mult_error.
Open Scope R_scope.

Section Rounding.
Variable ties : Z -> bool.
Notation exponents := (FLT_exp (-1074) 53).
Notation binary64 := (generic_format radix2 exponents).
Notation fl := (round radix2 exponents (Znearest ties)).
Definition u := bpow radix2 (-53).
Local Instance prec : Prec_gt_0 53 := eq_refl.

Lemma u_small : 0 < u < / 1000.
Proof. unfold u; simpl; lra. Qed.

Lemma format_fl x : binary64 (fl x).
Proof. apply generic_format_round; [apply FLT_exp_valid; reflexivity | apply valid_rnd_N]. Qed.

Lemma fl_exact x : binary64 x -> fl x = x.
Proof. apply round_generic, valid_rnd_N. Qed.

Lemma fl_normal x : bpow radix2 (-1022) <= Rabs x -> Rabs (fl x - x) <= u * Rabs x.
Proof.
intros normal; replace u with (/ 2 * bpow radix2 (- (53) + 1)) by (unfold u; simpl; lra).
apply relative_error_N_FLT; [reflexivity | exact normal].
Qed.
Lemma normal_8 x : / 8 <= x -> Rabs (fl x - x) <= u * x.
Proof.
intros x8; rewrite <- (Rabs_pos_eq x) at 3 by lra; apply fl_normal; rewrite Rabs_pos_eq by lra.
apply Rle_trans with (2 := x8), Rle_trans with (bpow radix2 (-3)); [apply bpow_le; lia | simpl; lra].
Qed.

Lemma half_exact x : binary64 x -> / 8 <= Rabs x -> fl (x / 2) = x / 2.
Proof.
intros Fx x8; replace (x / 2) with (x * bpow radix2 (-1)) by (simpl; lra); apply fl_exact.
apply mult_bpow_exact_FLT; [assumption |].
assert (-3 < mag radix2 x)%Z by (apply mag_gt_bpow; simpl; lra); lia.
Qed.

(* Where x^2 is near 1 the factor of the polish has an error of 3/2 u, up to u^2. *)
Theorem polish_error x : 3 / 4 <= x * x <= 5 / 4 ->
  Rabs (fl (3 / 2 - fl (fl (x * x) / 2)) - (3 - x * x) / 2) <= (3 / 2 + u) * u.
Proof.
intros x1; assert (U := u_small).
assert (E := normal_8 (x * x) ltac:(lra)); apply Rabs_le_inv in E.
assert (Z : 1 / 2 <= fl (x * x) <= 3 / 2) by nra.
rewrite half_exact; [| apply format_fl | rewrite Rabs_pos_eq; lra].
assert (F := normal_8 (3 / 2 - fl (x * x) / 2) ltac:(lra)); apply Rabs_le_inv in F; apply Rabs_le.
set (z := fl (x * x)) in *; set (w := fl _) in *; set (c := x * x) in *.
assert (0 <= u * (5 / 4 - c)) by (apply Rmult_le_pos; lra).
assert (0 <= u * (u * (5 / 4 - c))) by (apply Rmult_le_pos; [lra | apply Rmult_le_pos; lra]).
assert (0 <= u * (z - c + u * c)) by (apply Rmult_le_pos; lra).
assert (0 <= u * (c - z + u * c)) by (apply Rmult_le_pos; lra).
assert (0 < u * u) by nra.
split; lra.
Qed.

(* Outside a band the truncation test, on a tail and a threshold that are known up to relative errors, decides right. *)
Theorem truncation_test e t c theta : 0 <= e -> Rabs (c - t) <= e * t -> bpow radix2 (-1022) <= theta ->
  (t * (1 + e) <= theta * (1 - u) -> c <= fl theta) /\ (theta * (1 + u) < t * (1 - e) -> fl theta < c).
Proof.
intros e0 ct th; apply Rabs_le_inv in ct.
assert (T := bpow_gt_0 radix2 (-1022)); assert (F := fl_normal theta); rewrite Rabs_pos_eq in F by lra.
specialize (F th); apply Rabs_le_inv in F; split; intros; lra.
Qed.

(* Controls: a summand of at most 2 is lost in 2^59. *)
Definition big := bpow radix2 59.
Lemma format_big : binary64 big.
Proof. apply generic_format_FLT_bpow; [exact prec | lia]. Qed.
Lemma big_swallows d : 0 <= d <= 2 -> fl (big + d) = big /\ fl (- big + d) = - big.
Proof.
intros d2; assert (V : Valid_rnd (Znearest ties)) by apply valid_rnd_N.
assert (X : Valid_exp exponents) by (apply FLT_exp_valid; exact prec).
assert (Fn : binary64 (- big)) by apply generic_format_opp, format_big.
split; apply Rle_antisym.
- apply round_N_le_midp; [exact X | apply format_big |].
  rewrite succ_eq_pos by apply bpow_ge_0; unfold big; rewrite ulp_bpow; simpl; lra.
- rewrite <- (fl_exact big format_big) at 1; apply round_le; [exact X | exact V | lra].
- apply round_N_le_midp; [exact X | exact Fn |].
  rewrite succ_opp; unfold big; rewrite pred_bpow; simpl; lra.
- rewrite <- (fl_exact _ Fn) at 1; apply round_le; [exact X | exact V | lra].
Qed.

Lemma polish_of_any_size_wrong : ~ (forall x, Rabs (fl (3 / 2 - fl (fl (x * x) / 2)) - (3 - x * x) / 2) <= (3 / 2 + u) * u).
Proof.
intros H; specialize (H (bpow radix2 30)); assert (U := u_small); revert H.
rewrite <- bpow_plus, (fl_exact (bpow _ (30 + 30))) by (apply generic_format_FLT_bpow; [exact prec | lia]).
replace (bpow radix2 (30 + 30) / 2) with big by (unfold big; simpl; lra).
rewrite (fl_exact big format_big); replace (3 / 2 - big) with (- big + 3 / 2) by lra.
destruct (big_swallows (3 / 2) ltac:(lra)) as [_ ->].
replace (- big - (3 - bpow radix2 (30 + 30)) / 2) with (- (3 / 2)) by (unfold big; simpl; lra).
rewrite Rabs_Ropp, Rabs_pos_eq by lra; nra.
Qed.

Lemma test_without_band_wrong :
  ~ (forall c t theta, Rabs (c - t) <= u * t -> bpow radix2 (-1022) <= theta -> theta < t -> fl theta < c).
Proof.
intros H; specialize (H big (big + 1) big); rewrite (fl_exact big format_big) in H.
apply (Rlt_irrefl big), H; [| apply bpow_le; lia | lra].
replace (big - (big + 1)) with (- (1)) by ring; rewrite Rabs_Ropp, Rabs_R1; unfold u, big; simpl; lra.
Qed.
End Rounding.
