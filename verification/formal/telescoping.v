(* Sums over steps (docs/theory/descent.md).

   Assumed is what one step gives, descent.v: loss t -> half-way loss h t -> loss (t + 1), with a decrease
   w t * g t, noise v t and truncation c t.  For stochastic gradients these are expectations; that the mean of
   the noise term is v t is assumed. *)
From mathcomp Require Import all_ssreflect all_algebra ring lra.
From GeoLoRA Require Import setting.
Import Order.TTheory GRing.Theory Num.Theory.

Section Telescoping.
Variables (R : realFieldType) (loss h g w v c : nat -> R) (best : R).
Hypothesis half_step : forall t, h t <= loss t - w t * g t + v t.
Hypothesis truncation : forall t, loss t.+1 <= h t + c t.
Hypothesis bounded_below : forall t, best <= loss t.

Theorem sum_over_steps T : \sum_(t < T) w t * g t <=
  loss 0 - best + \sum_(t < T) v t + \sum_(t < T) c t.
Proof.
suff: \sum_(t < T) w t * g t <= loss 0 - loss T + \sum_(t < T) v t + \sum_(t < T) c t.
  by have := bounded_below T; lra.
elim: T => [|T IH]; first by rewrite !big_ord0; lra.
by rewrite !big_ord_recr /=; have := half_step T; have := truncation T; lra.
Qed.

(* Constant rate, no noise: the least of g is at most the right side over T w. *)
Theorem smallest_gradient T w0 : (0 < T)%N -> 0 < w0 -> (forall t, w t = w0) -> (forall t, v t = 0) ->
  exists2 t, (t < T)%N & g t <= (loss 0 - best + \sum_(t < T) c t) / (T%:R * w0).
Proof.
move=> T0 w_gt0 ww v0; set bound := _ / _.
have total : \sum_(t < T) g t <= T%:R * bound.
  rewrite /bound invfM mulrCA mulVKf ?pnatr_eq0 -?lt0n // ler_pdivlMr // mulr_suml.
  apply: le_trans (_ : _ <= loss 0 - best + \sum_(t < T) v t + \sum_(t < T) c t) _; last first.
    by rewrite (eq_bigr (fun=> 0)) // big1_eq addr0.
  by apply: le_trans (sum_over_steps T); rewrite le_eqVlt; apply/orP; left; apply/eqP/eq_bigr => t _; rewrite ww mulrC.
case: (pickP (fun t : 'I_T => g t <= bound)) => [t gt | above]; first by exists t.
suff: 0 < \sum_(t < T) (g t - bound) by rewrite sumrB sumr_const card_ord -mulr_natl subr_gt0 ltNge total.
rewrite (bigD1 (Ordinal T0)) //= ltr_pwDl ?subr_gt0 ?ltNge ?(above (Ordinal T0)) //.
by rewrite sumr_ge0 // => t _; rewrite subr_ge0 ltW // ltNge above.
Qed.

(* Rates whose sum has no bound, noise and truncation summable: g falls below every b > 0, again and again. *)
Theorem gradients_return_to_zero C b : (forall T, \sum_(t < T) v t + \sum_(t < T) c t <= C) ->
  (forall t, 0 <= g t) -> (forall t, 0 <= w t) -> (forall K, exists T, K < \sum_(t < T) w t) -> 0 < b ->
  forall t0, exists2 t, (t0 <= t)%N & g t < b.
Proof.
move=> small g0 w0 unbounded b0 t0.
have [T wT] := unbounded ((loss 0 - best + C) / b + \sum_(t < t0) w t).
case: (pickP (fun t : 'I_(t0 + T) => (t0 <= t)%N && (g t < b))) => [t /andP[] | none]; first by exists t.
have claim d : (d <= T)%N -> b * (\sum_(t < t0 + d) w t) <= \sum_(t < t0 + d) w t * g t + b * \sum_(t < t0) w t.
  elim: d => [|d IH] dT; first by rewrite addn0 ler_wpDl // sumr_ge0 // => t _; rewrite mulr_ge0.
  rewrite addnS !big_ord_recr /= mulrDr; have := IH (ltnW dT).
  have gb : b <= g (t0 + d)%N.
    have d_lt : (t0 + d < t0 + T)%N by rewrite ltn_add2l.
    by have := none (Ordinal d_lt); rewrite /= leq_addr /= ltNge => /negbFE.
  have := ler_wpM2l (w0 (t0 + d)%N) gb; lra.
have grows d : \sum_(t < T) w t <= \sum_(t < d + T) w t.
  by elim: d => // d IH; rewrite addSn big_ord_recr /= ler_wpDr.
exfalso; have := claim T (leqnn T); have := sum_over_steps (t0 + T); have := small (t0 + T)%N; have := grows t0.
move=> wide; have := lt_le_trans wT wide;
  rewrite -subr_gt0 -(ltr_pM2l b0) mulr0 mulrBr mulrDr mulrCA divff ?lt0r_neq0 //; lra.
Qed.
End Telescoping.

(* Control: without the truncation terms the sum is wrong. *)
Lemma truncation_left_out_is_wrong : exists loss h g c : nat -> rat, [/\ forall t, h t <= loss t - g t,
  forall t, loss t.+1 <= h t + c t, forall t, 0 <= loss t & ~ (\sum_(t < 1) g t <= loss 0%N)].
Proof.
exists (fun=> 0), (fun=> -1), (fun=> 1), (fun=> 1); split=> [t|t|t|]; rewrite ?big_ord1 //.
Qed.
