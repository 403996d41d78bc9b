(* One backward pass gives all gradients (docs/theory/step.md).

   A gradient with respect to a factor is what the scalar product with every change of that factor shows;
   nothing is assumed.  Proved: the gradients G_U, G_V, G_S of L(U S V^H) from G = grad L(W), the three
   views of one matrix, the published route for invertible S, the probes of value zero. *)
From mathcomp Require Import all_ssreflect all_algebra ring.
From GeoLoRA Require Import setting.
Import GRing.Theory Num.Theory.

Section OneBackwardPass.
Variables (R : comRingType) (J : involution R) (m n r s : nat).
Variables (U : 'M[R]_(m, r)) (V : 'M[R]_(n, s)) (S : 'M[R]_(r, s)) (G : 'M[R]_(m, n)).
Notation "A ^H" := (adj J A) (at level 2, format "A ^H").
Definition grad_K := G *m V.
Definition grad_L := G^H *m U.
Definition grad_S := U^H *m G *m V.

Lemma inner_decides p q (X Y : 'M[R]_(p, q)) : (forall D, inner J X D = inner J Y D) -> X = Y.
Proof.
move=> same; suff: X^H = Y^H by move/(congr1 (@adj R J q p)); rewrite !adjK.
apply/matrixP => i j; have:= same (delta_mx j i); rewrite /inner /mxtrace.
have entry (Z : 'M[R]_(q, p)) : \sum_k (Z *m delta_mx j i) k k = Z i j.
  rewrite (bigD1 i) //= big1 => [|k ki]; rewrite mxE (bigD1 j) //= big1 => [|l lj]; rewrite ?mxE ?eqxx ?mulr1 ?addr0 //.
  - by rewrite (negPf lj) mulr0.
  - by rewrite (negPf ki) andbF mulr0.
  by rewrite (negPf lj) mulr0.
by rewrite !entry.
Qed.

Theorem gradient_of_U G_U : (forall dU, inner J G (dU *m S *m V^H) = inner J G_U dU) <-> G_U = grad_K *m S^H.
Proof.
have slope dU : inner J G (dU *m S *m V^H) = inner J (grad_K *m S^H) dU by rewrite /grad_K !inner_mulr adjK.
by split=> [g | -> //]; apply: inner_decides => dU; rewrite -g slope.
Qed.

Theorem gradient_of_V G_V : (forall dV, inner J G (U *m S *m dV^H) = J (inner J G_V dV)) <-> G_V = grad_L *m S.
Proof.
have slope dV : inner J G (U *m S *m dV^H) = J (inner J (grad_L *m S) dV).
  by rewrite -inner_sym /inner /grad_L; expand; rewrite mxtrace_mulC !mulmxA.
by split=> [g | -> //]; apply: inner_decides => dV; apply: (can_inj (conjK J)); rewrite -g slope.
Qed.

Theorem gradient_of_S G_S : (forall dS, inner J G (U *m dS *m V^H) = inner J G_S dS) <-> G_S = grad_S.
Proof.
have slope dS : inner J G (U *m dS *m V^H) = inner J grad_S dS.
  by rewrite /grad_S inner_mulr inner_mull adjK mulmxA.
by split=> [g | -> //]; apply: inner_decides => dS; rewrite -g slope.
Qed.

(* The same without a backward pass of one's own: probes D_K V^H and U D_L^H of value zero beside W. *)
Theorem gradients_of_probes D_K D_L :
  inner J G (D_K *m V^H) = inner J grad_K D_K /\ inner J G (U *m D_L^H) = J (inner J grad_L D_L).
Proof.
split; first by rewrite /grad_K inner_mulr.
by rewrite -inner_sym /inner /grad_L; expand; rewrite mxtrace_mulC !mulmxA.
Qed.

Theorem three_views : U^H *m grad_K = grad_S /\ grad_S = (V^H *m grad_L)^H.
Proof. by rewrite /grad_K /grad_S /grad_L; split; expand. Qed.

(* As published: from the gradients of the factors, for invertible S. *)
Theorem published_route (S1 : 'M[R]_(s, r)) : S *m S1 = 1%:M -> S1 *m S = 1%:M ->
  (grad_K *m S^H) *m S1^H = grad_K /\ (grad_L *m S) *m S1 = grad_L.
Proof. by move=> SS1 S1S; rewrite -!mulmxA -adjM S1S SS1 adj1 !mulmx1. Qed.
End OneBackwardPass.

(* Controls: without the conjugate, and with the inverse in place of its transpose, the identities fail. *)
Lemma no_conjugate_is_wrong (C : numClosedFieldType) : exists U V G : 'M[C]_1,
  grad_S (conjugate C) U V G <> (V^T *m grad_L (conjugate C) U G)^T.
Proof.
exists 1%:M, 1%:M, 'i%:M; rewrite /grad_S /grad_L adj1 !mul1mx !mulmx1 trmx1 mul1mx => /matrixP/(_ 0 0).
rewrite !mxE /= conjCi => /eqP; rewrite -subr_eq0 opprK -mulr2n mulrn_eq0 /=.
by rewrite (negPf (neq0Ci C)).
Qed.

Lemma inverse_for_its_transpose_is_wrong : exists G S S1 : 'M[rat]_2, [/\ S *m S1 = 1%:M, S1 *m S = 1%:M &
  grad_K 1%:M G *m adj (no_conjugate _) S *m S1 <> grad_K 1%:M G].
Proof.
pose S (c : rat) : 'M[rat]_2 := \matrix_(i, j) if i == j then 1 else if (i < j)%N then c else 0.
have S_inv c d : d = - c -> S c *m S d = 1%:M.
  move=> ->; apply/matrixP => i j; case: i => [[|[|//]] ?]; case: j => [[|[|//]] ?]; compute_entries; ring.
exists 1%:M, (S 1), (S (- 1)); split; [exact: S_inv | by apply: S_inv; rewrite opprK |].
rewrite /grad_K !mul1mx => /matrixP/(_ 1 1); compute_entries; exact/eqP.
Qed.
