(* One rank budget for many layers: the exchange argument (docs/theory/rank.md).

   x runs through the singular values of all layers beyond the least ranks, v x is its square, c x > 0 what it
   costs.  A is what was kept before the first refusal, f what was refused, a < c f what was left of the
   budget, w = v f / c f its worth.  Assumed: nothing outside of A is worth more than f and nothing in A less,
   which the order of worth gives.  Left on paper: that within a layer the worth never rises, and Eckart-Young. *)
From mathcomp Require Import all_ssreflect all_algebra ring lra.
From GeoLoRA Require Import setting.
Import Order.TTheory GRing.Theory Num.Theory.

Section Budget.
Variables (R : realFieldType) (T : finType) (v c : T -> R).
Hypotheses (v_ge0 : forall x, 0 <= v x) (c_gt0 : forall x, 0 < c x).
Notation total h X := (\sum_(x in X) h x).

Lemma exchange w (A B : {set T}) : (forall x, x \in A -> w * c x <= v x) -> (forall x, x \notin A -> v x <= w * c x) ->
  total v B - total v A <= w * (total c B - total c A).
Proof.
move=> above below; pose e x := v x - w * c x.
have eB (X : {set T}) : total v X = total e X + w * total c X by rewrite mulr_sumr -big_split /=;
  apply: eq_bigr => x _; rewrite subrK.
suff : total e B <= total e A by rewrite !eB; lra.
apply: le_trans (_ : _ <= \sum_(x in A :&: B) e x) _.
  rewrite (big_setID A) /= setIC gerDl -oppr_ge0 -sumrN sumr_ge0 // => x /setDP[_ xA].
  by have := below x xA; rewrite /e; lra.
by rewrite [leRHS](big_setID B) /= lerDl sumr_ge0 // => x /setDP[xA _]; have := above x xA; rewrite /e; lra.
Qed.

(* What is discarded is the sum outside of what is kept; K is all that is kept, A and what was kept after f. *)
Theorem budget_is_nearly_optimal (f : T) (A K B : {set T}) (a R0 : R) : A \subset K ->
  (forall x, x \in A -> v f / c f <= v x / c x) -> (forall x, x \notin A -> v x / c x <= v f / c f) ->
  total c A + a = R0 -> total c B <= R0 ->
  \sum_(x | x \notin K) v x <= \sum_(x | x \notin B) v x + a / c f * v f.
Proof.
move=> AK above below left_over B_fits; have w0 : 0 <= v f / c f by rewrite divr_ge0 ?v_ge0 // ltW.
have := @exchange (v f / c f) A B; set w := v f / c f => Exchange.
have {Exchange} : total v B - total v A <= w * (total c B - total c A).
  apply: Exchange => x xA; [rewrite -ler_pdivlMr // | rewrite -ler_pdivrMr //]; [exact: above | exact: below].
have split_total (X : {set T}) : \sum_x v x = total v X + \sum_(x | x \notin X) v x by rewrite (bigID (mem X)).
have kept : total v A <= total v K by rewrite [leRHS](big_setID A) /= (setIidPr AK) lerDl sumr_ge0.
have cost : w * (total c B - total c A) <= w * a by apply: ler_wpM2l => //; lra.
have -> : a / c f * v f = w * a by rewrite /w; ring.
have := split_total K; have := split_total B; lra.
Qed.

(* In ranks every cost is 1 and nothing is left over: the choice is optimal. *)
Corollary budget_in_ranks f (A K B : {set T}) R0 : A \subset K -> (forall x, c x = 1) ->
  (forall x, x \in A -> v f <= v x) -> (forall x, x \notin A -> v x <= v f) -> total c A = R0 -> total c B <= R0 ->
  \sum_(x | x \notin K) v x <= \sum_(x | x \notin B) v x.
Proof.
move=> AK c1 above below A_cost B_cost; have := @budget_is_nearly_optimal f A K B 0 R0 AK.
by rewrite mul0r mul0r !addr0 => H; apply: H => // x xA; rewrite !c1 !divr1; [exact: above | exact: below].
Qed.

(* Nothing refused: everything is kept, and nothing can discard less than nothing. *)
Theorem nothing_refused (K B : {set T}) : (forall x, x \in K) -> \sum_(x | x \notin K) v x <= \sum_(x | x \notin B) v x.
Proof. by move=> all_kept; rewrite big1 ?sumr_ge0 // => x; rewrite all_kept. Qed.
End Budget.

(* Control: the bound without the left-over term is wrong.  35 parameters left, sigma = 3 for 12 of them is kept and
   sigma = 5 for 34 then refused: 25 is discarded and 9 could have been, as the page says. *)
Lemma no_left_over_is_wrong : exists (v c : bool -> rat) (A B : {set bool}), [/\ v true / c true <= v false / c false,
  (forall x, (x \in A) = ~~ x), \sum_(x in B) c x <= 35 & \sum_(x | x \notin B) v x < \sum_(x | x \notin A) v x].
Proof.
exists (fun x => if x then 25 else 9), (fun x => if x then 34 else 12), [set false], [set true].
split; [lra | by move=> [|]; rewrite inE | by rewrite big_set1; lra |].
by rewrite big_mkcond big_bool [ltRHS]big_mkcond big_bool /= !inE /=; lra.
Qed.
