(* What a relative threshold tau can hold (docs/theory/priced.md).

   v i is the square of the singular value number i, from 0, and q = tau^2.  To keep r1 of r directions is allowed
   if the sum of the others is at most q times the sum of all. *)
From mathcomp Require Import all_ssreflect all_algebra ring lra.
From GeoLoRA Require Import setting.
Import Order.TTheory GRing.Theory Num.Theory.

Section Relative.
Variables (R : realFieldType) (v : nat -> R) (q : R).
Hypotheses (v_ge0 : forall i, 0 <= v i) (falling : forall i j, (i <= j)%N -> v j <= v i) (q_gt0 : 0 < q) (q_lt1 : q < 1).
Notation total r := (\sum_(i < r) v i).
Definition allowed r1 r := total r - total r1 <= q * total r.
(* The last of r directions is larger than the threshold. *)
Definition held r := q * total r.+1 < v r.

Lemma total_rises a b : (a <= b)%N -> total a <= total b.
Proof. by move/subnKC => <-; elim: (b - a)%N => [|k IH]; rewrite ?addn0 // addnS big_ord_recr /= ler_wpDr. Qed.

(* Number r (from 1) is held: then r < 1 / tau^2. *)
Theorem fewer_than r : held r -> r.+1%:R < 1 / q.
Proof.
move=> last; have sum : r.+1%:R * v r <= total r.+1.
  rewrite mulr_natl -[X in _ *+ X]card_ord -sumr_const; apply: ler_sum => i _; apply: falling; exact: (ltn_ord i).
have v0 : 0 < v r by apply: le_lt_trans last; rewrite mulr_ge0 ?(ltW q_gt0) ?sumr_ge0.
rewrite ltr_pdivlMr // -(ltr_pM2r v0) mul1r; apply: le_lt_trans last.
by rewrite mulrAC mulrC ler_wpM2l ?(ltW q_gt0).
Qed.

(* A rank whose last direction is not held is cut: one direction less is allowed. *)
Theorem not_held_is_cut r : ~~ (q * total r.+1 < v r) -> allowed r r.+1.
Proof. by rewrite -leNgt /allowed big_ord_recr /=; lra. Qed.

(* No cut goes below a direction that is held. *)
Theorem held_is_kept r0 r1 r : held r0 -> (r0 < r)%N -> (r1 <= r0)%N -> ~ allowed r1 r.
Proof.
rewrite /held /allowed => last r0r r1r0 cut; have low := total_rises r1r0; have high := total_rises r0r.
move: last low high cut; rewrite big_ord_recr /=; have := v_ge0 r0.
move: (total r0) (total r1) (total r) (v r0) => A B C x x0 last low high cut.
have : (1 - q) * (A + x) <= (1 - q) * C by rewrite ler_wpM2l // subr_ge0 ltW.
by lra.
Qed.
End Relative.

(* Control: 1 / tau^2 itself is not held, by equal singular values; tau^2 = 1/4 of four. *)
Lemma as_many_is_wrong (v := fun _ : nat => 1 : rat) : ~~ (1 / 4 * (\sum_(i < 4) v i) < v 3).
Proof. by rewrite -leNgt /v sumr_const card_ord; lra. Qed.
