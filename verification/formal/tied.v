(* A momentum 1 - (t + 1)^(-1/2): bias and noise of the memory fall like (t + 1)^(-1/4) (docs/theory/priced.md,
   "Momentum tied to the rate").

   x t stands for (t + 1)^(-1/4), the number whose fourth power is 1/(t + 1).  Left on paper: the sums of the last
   sentence, with the descent of the steps. *)
From mathcomp Require Import all_ssreflect all_algebra ring lra.
From GeoLoRA Require Import setting.
Import Order.TTheory GRing.Theory Num.Theory.

Section Tied.
Variables (R : realFieldType) (x : nat -> R).
Hypotheses (x_gt0 : forall t, 0 < x t) (x_root : forall t, x t ^+ 4 * t.+1%:R = 1).
Let next (t : nat) : x t ^+ 4 = x t.+1 ^+ 4 * (1 + x t ^+ 4).
Proof.
have := x_root t.+1; have := x_root t; rewrite -[t.+2]addn1 natrD; set n := t.+1%:R; move=> y_n x_n.
have n0 : n != 0 by rewrite pnatr_eq0.
by apply: (mulIf n0); rewrite y_n -mulrA mulrDl mul1r y_n x_n.
Qed.
Lemma x_le1 t : x t ^+ 4 <= 1.
Proof. by rewrite -(x_root t) ler_peMr ?exprn_ge0 ?(ltW (x_gt0 t)) // ler1n. Qed.
Lemma square_le1 t : x t ^+ 2 <= 1.
Proof. by rewrite -(@ler_pXn2r _ 2) ?nnegrE ?sqr_ge0 // -exprM expr1n x_le1. Qed.
Lemma slow t : x t <= (1 + x t ^+ 4 / 4) * x t.+1.
Proof.
have y0 := ltW (x_gt0 t); have x0 := ltW (x_gt0 t.+1); have f0 : 0 <= x t ^+ 4 by rewrite exprn_ge0.
rewrite -(@ler_pXn2r _ 4) ?nnegrE ?mulr_ge0 ?addr_ge0 ?divr_ge0 // exprMn [leLHS]next mulrC.
rewrite ler_wpM2r ?exprn_ge0 //; move: (x t ^+ 4) f0 => f f0.
rewrite (_ : (1 + f / 4) ^+ 4 = 1 + f + (f ^+ 2 * (3 / 8) + f ^+ 3 / 16 + f ^+ 4 / 256)); last by field.
by rewrite lerDl !addr_ge0 ?mulr_ge0 ?exprn_ge0 //; lra.
Qed.
Lemma square_slow t : x t ^+ 2 <= (1 + x t.+1 ^+ 4) * x t.+1 ^+ 2.
Proof.
have f0 : 0 <= x t ^+ 4 by rewrite exprn_ge0 ?(ltW (x_gt0 t)).
have half : x t ^+ 4 / 2 <= x t.+1 ^+ 4.
  by rewrite [in leLHS]next -mulrA ler_piMr ?exprn_ge0 ?(ltW (x_gt0 _)) //; have := x_le1 t; lra.
have g0 : 0 <= 1 + x t.+1 ^+ 4 by rewrite addr_ge0 ?exprn_ge0 ?(ltW (x_gt0 _)).
have r0 : 0 <= (1 + x t.+1 ^+ 4) * x t.+1 ^+ 2 by rewrite mulr_ge0 ?sqr_ge0.
rewrite -(@ler_pXn2r _ 2) ?nnegrE ?sqr_ge0 //; rewrite [leRHS]exprMn -!exprM [leLHS]next mulrC.
by rewrite ler_wpM2r ?exprn_ge0 ?(ltW (x_gt0 _)) //; move: half; nra.
Qed.
Lemma lower t : (707 / 1000) * x t ^+ 2 <= x t.+1 ^+ 2.
Proof.
have r0 : 0 <= (707 / 1000) * x t ^+ 2 by have := sqr_ge0 (x t); lra.
rewrite -(@ler_pXn2r _ 2) ?nnegrE ?sqr_ge0 //.
rewrite [leLHS]exprMn -!exprM; have := next t; have := x_le1 t; have f0 : 0 <= x t ^+ 4 by rewrite exprn_ge0 ?(ltW (x_gt0 t)).
have g0 : 0 <= x t.+1 ^+ 4 by rewrite exprn_ge0 ?(ltW (x_gt0 t.+1)).
by move: (x t ^+ 4) (x t.+1 ^+ 4) f0 g0 => f g f0 g0 f1 fg; nra.
Qed.

Theorem bias_falls C (a : nat -> R) : 0 <= C -> a 0%N <= 0 ->
  (forall t, a t.+1 <= (1 - x t.+1 ^+ 2) * (a t + C * x t ^+ 3)) -> forall t, a t <= 22 / 10 * C * x t.
Proof.
move=> C0 a0 step; elim=> [|t IH]; first by apply: le_trans a0 _; rewrite !mulr_ge0 ?(ltW (x_gt0 0)) //; lra.
have y0 := x_gt0 t; have z0 := x_gt0 t.+1; have y1 := square_le1 t; have low := lower t; have sl := slow t.
have m0 : 0 <= 1 - x t.+1 ^+ 2 by rewrite subr_ge0 square_le1.
apply: le_trans (step t) _; apply: le_trans (_ : (1 - x t.+1 ^+ 2) * (x t * (C * (22 / 10 + x t ^+ 2))) <= _).
  apply: ler_wpM2l => //; move: IH; rewrite exprS; lra.
apply: le_trans (_ : (1 - 707 / 1000 * x t ^+ 2) * ((1 + x t ^+ 4 / 4) * x t.+1 * (C * (22 / 10 + x t ^+ 2))) <= _).
  apply: ler_pM => //; first by rewrite !mulr_ge0 ?addr_ge0 ?sqr_ge0 ?(ltW y0) //; lra.
    lra.
  by apply: ler_wpM2r => //; rewrite mulr_ge0 ?addr_ge0 ?sqr_ge0 //; lra.
rewrite (_ : x t ^+ 4 = x t ^+ 2 ^+ 2); last by rewrite -exprM.
rewrite (_ : _ * _ = (1 - 707 / 1000 * x t ^+ 2) * (1 + x t ^+ 2 ^+ 2 / 4) * (22 / 10 + x t ^+ 2) * (C * x t.+1)); last ring.
rewrite -[leRHS]mulrA; apply: ler_wpM2r; first by rewrite mulr_ge0 ?(ltW z0).
by move: (x t ^+ 2) y1 (sqr_ge0 (x t)) => y y1 y0'; nra.
Qed.

Theorem noise_falls s (b : nat -> R) : b 0%N ^+ 2 <= s ^+ 2 ->
  (forall t, b t.+1 ^+ 2 <= (1 - x t.+1 ^+ 2) ^+ 2 * b t ^+ 2 + (x t.+1 ^+ 2) ^+ 2 * s ^+ 2) ->
  forall t, b t ^+ 2 <= (131 / 100 * s * x t) ^+ 2.
Proof.
move=> b0 step; elim=> [|t IH].
  have := x_root 0; rewrite mulr1 => x4; have x1 : x 0 ^+ 2 = 1.
    by apply/eqP; rewrite -(@eqrXn2 _ 2) ?sqr_ge0 // -exprM expr1n x4.
  by rewrite exprMn x1 mulr1 exprMn; apply: le_trans b0 _; have := sqr_ge0 s; lra.
apply: le_trans (step t) _; rewrite (_ : (131 / 100 * s * x t.+1) ^+ 2 = (131 / 100) ^+ 2 * s ^+ 2 * x t.+1 ^+ 2); last ring.
rewrite (_ : (131 / 100 * s * x t) ^+ 2 = (131 / 100) ^+ 2 * s ^+ 2 * x t ^+ 2) in IH; last ring.
have sl := square_slow t; have s0 := sqr_ge0 s; have al0 := sqr_ge0 (x t.+1).
have half : x t.+1 ^+ 2 <= 7072 / 10000.
  rewrite -(@ler_pXn2r _ 2) ?nnegrE //; last lra.
  have := x_root t.+1; rewrite -exprM; have : 2 <= t.+2%:R :> R by rewrite (ler_nat R 2).
  have : 0 <= x t.+1 ^+ 4 by rewrite exprn_ge0 ?(ltW (x_gt0 _)).
  by move: (x t.+1 ^+ 4) (t.+2%:R) => f n f0 n2 fn; nra.
rewrite (_ : x t.+1 ^+ 4 = x t.+1 ^+ 2 ^+ 2) in sl; last by rewrite -exprM.
have : b t ^+ 2 <= (131 / 100) ^+ 2 * s ^+ 2 * ((1 + x t.+1 ^+ 2 ^+ 2) * x t.+1 ^+ 2).
  by apply: le_trans IH _; apply: ler_wpM2l => //; rewrite mulr_ge0 // sqr_ge0.
move=> /(ler_wpM2l (sqr_ge0 (1 - x t.+1 ^+ 2))); move: (x t.+1 ^+ 2) (s ^+ 2) s0 al0 half => al S S0 al0 half.
suff : (1 - al) ^+ 2 * ((131 / 100) ^+ 2 * S * ((1 + al ^+ 2) * al)) + al ^+ 2 * S <= (131 / 100) ^+ 2 * S * al by lra.
suff : 0 <= al * (S * (al * ((131 / 100) ^+ 2 * (2 - 2 * al + 2 * al ^+ 2 - al ^+ 3) - 1))) by move=> H; nra.
by rewrite !mulr_ge0 //; nra.
Qed.
End Tied.

(* Control: with a fixed momentum the noise does not fall. *)
Lemma fixed_momentum_is_wrong : exists b : nat -> rat, (forall t, b t.+1 ^+ 2 = (1 - 1 / 2) ^+ 2 * b t ^+ 2 +
  (1 / 2) ^+ 2 * 3) /\ forall t, b t = 1.
Proof. by exists (fun=> 1); split=> // t; field. Qed.
