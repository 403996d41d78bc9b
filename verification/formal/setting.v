(* The setting: adjoints, isometries, the tangent projector, tangent triples (docs/theory/setting.md).

   Entries come from a commutative ring with an involution J.  With the identity, adj is the transpose
   of real data; with complex conjugation it is the adjoint.  Every statement over J holds for both. *)
From mathcomp Require Import all_ssreflect all_algebra ring.
Import GRing.Theory Num.Theory.
#[export] Set Implicit Arguments.
#[export] Unset Strict Implicit.
#[export] Unset Printing Implicit Defensive.
#[global] Open Scope ring_scope.

Record involution (R : comRingType) := Involution { conj :> {rmorphism R -> R}; conjK : involutive conj }.
Definition no_conjugate R : involution R := @Involution R idfun (fun => erefl).
Definition conjugate (C : numClosedFieldType) : involution C := @Involution C Num.conj_op (@conjCK C).

Definition adj R (J : involution R) m n (A : 'M[R]_(m, n)) : 'M[R]_(n, m) := map_mx J A^T.
Definition isometry R (J : involution R) m r (U : 'M[R]_(m, r)) := adj J U *m U = 1%:M.
Definition unitary R (J : involution R) r (Q : 'M[R]_r) := adj J Q *m Q = 1%:M /\ Q *m adj J Q = 1%:M.
(* <A, B>; over the complex numbers its real part is the scalar product of the pages. *)
Definition inner R (J : involution R) m n (A B : 'M[R]_(m, n)) : R := \tr (adj J A *m B).
(* P Z = U U^H Z + Z V V^H - U U^H Z V V^H *)
Definition proj R (J : involution R) m n r s (U : 'M[R]_(m, r)) (V : 'M[R]_(n, s)) (Z : 'M[R]_(m, n)) :=
  U *m adj J U *m Z + Z *m V *m adj J V - U *m adj J U *m Z *m V *m adj J V.
(* U^H K = S = (V^H L)^H, and the matrix K V^H + U L^H - U S V^H *)
Definition tangent R (J : involution R) m n r s (U : 'M[R]_(m, r)) (V : 'M[R]_(n, s)) K L S :=
  adj J U *m K = S /\ S = adj J (adj J V *m L).
Definition of_triple R (J : involution R) m n r s (U : 'M[R]_(m, r)) (V : 'M[R]_(n, s)) K L S :=
  K *m adj J V + U *m adj J L - U *m S *m adj J V.

Section Adjoint.
Variables (R : comRingType) (J : involution R).

Lemma adjE m n (A : 'M[R]_(m, n)) i j : adj J A i j = J (A j i). Proof. by rewrite !mxE. Qed.
Lemma adjK m n (A : 'M[R]_(m, n)) : adj J (adj J A) = A.
Proof. by apply/matrixP => i j; rewrite !adjE conjK. Qed.
Lemma adjM m n p (A : 'M[R]_(m, n)) (B : 'M_(n, p)) : adj J (A *m B) = adj J B *m adj J A.
Proof. by rewrite /adj trmx_mul map_mxM. Qed.
Lemma adjD m n (A B : 'M[R]_(m, n)) : adj J (A + B) = adj J A + adj J B.
Proof. by rewrite /adj linearD map_mxD. Qed.
Lemma adjN m n (A : 'M[R]_(m, n)) : adj J (- A) = - adj J A.
Proof. by rewrite /adj linearN map_mxN. Qed.
Lemma adjZ m n a (A : 'M[R]_(m, n)) : adj J (a *: A) = J a *: adj J A.
Proof. by rewrite /adj linearZ map_mxZ. Qed.
Lemma adj1 n : adj J 1%:M = 1%:M :> 'M[R]_n. Proof. by rewrite /adj trmx1 map_mx1. Qed.
Lemma adj0 m n : adj J 0 = 0 :> 'M[R]_(n, m). Proof. by rewrite /adj trmx0 map_mx0. Qed.
Lemma adj_row m n p (A : 'M[R]_(m, n)) (B : 'M_(m, p)) : adj J (row_mx A B) = col_mx (adj J A) (adj J B).
Proof. by rewrite /adj tr_row_mx map_col_mx. Qed.
Lemma trace_adj n (A : 'M[R]_n) : \tr (adj J A) = J (\tr A).
Proof. by rewrite /mxtrace rmorph_sum; apply: eq_bigr => i _; rewrite adjE. Qed.
Lemma isoK m r p (U : 'M[R]_(m, r)) (M : 'M_(p, r)) : isometry J U -> M *m adj J U *m U = M.
Proof. by move=> UU; rewrite -mulmxA UU mulmx1. Qed.
Lemma mulZmx m n p a (A : 'M[R]_(m, n)) (B : 'M_(n, p)) : (a *: A) *m B = a *: (A *m B).
Proof. by rewrite scalemxAl. Qed.
Lemma mulmxZ m n p a (A : 'M[R]_(m, n)) (B : 'M_(n, p)) : A *m (a *: B) = a *: (A *m B).
Proof. by rewrite scalemxAr. Qed.
Lemma addE m n (A B : 'M[R]_(m, n)) i j : (A + B) i j = A i j + B i j. Proof. by rewrite mxE. Qed.
Lemma oppE m n (A : 'M[R]_(m, n)) i j : (- A) i j = - A i j. Proof. by rewrite mxE. Qed.
Lemma scaleE m n a (A : 'M[R]_(m, n)) i j : (a *: A) i j = a * A i j. Proof. by rewrite mxE. Qed.
Lemma zeroE m n i j : (0 : 'M[R]_(m, n)) i j = 0. Proof. by rewrite mxE. Qed.
Lemma inner_mull m n p (A : 'M[R]_(p, m)) (X : 'M_(m, n)) Y : inner J (A *m X) Y = inner J X (adj J A *m Y).
Proof. by rewrite /inner adjM mulmxA. Qed.
Lemma inner_mulr m n p (B : 'M[R]_(n, p)) (X : 'M_(m, n)) Y : inner J (X *m B) Y = inner J X (Y *m adj J B).
Proof. by rewrite /inner adjM -mulmxA mxtrace_mulC !mulmxA. Qed.
Lemma innerDl m n (X Y Z : 'M[R]_(m, n)) : inner J (X + Y) Z = inner J X Z + inner J Y Z.
Proof. by rewrite /inner adjD mulmxDl mxtraceD. Qed.
Lemma innerDr m n (X Y Z : 'M[R]_(m, n)) : inner J X (Y + Z) = inner J X Y + inner J X Z.
Proof. by rewrite /inner mulmxDr mxtraceD. Qed.
Lemma innerZl m n a (X Y : 'M[R]_(m, n)) : inner J (a *: X) Y = J a * inner J X Y.
Proof. by rewrite /inner adjZ mulZmx mxtraceZ. Qed.
Lemma innerZr m n a (X Y : 'M[R]_(m, n)) : inner J X (a *: Y) = a * inner J X Y.
Proof. by rewrite /inner mulmxZ mxtraceZ. Qed.
Lemma innerNl m n (X Y : 'M[R]_(m, n)) : inner J (- X) Y = - inner J X Y.
Proof. by rewrite /inner adjN mulNmx raddfN. Qed.
Lemma innerNr m n (X Y : 'M[R]_(m, n)) : inner J X (- Y) = - inner J X Y.
Proof. by rewrite /inner mulmxN raddfN. Qed.
Lemma inner_sym m n (X Y : 'M[R]_(m, n)) : inner J Y X = J (inner J X Y).
Proof. by rewrite /inner -trace_adj adjM adjK. Qed.
End Adjoint.
Arguments isoK {R J m r p U} M _.

(* Products are multiplied out and adjoints moved inside; an equation of sums is decided entry by entry. *)
Ltac expand := rewrite ?(adjM, adjD, adjN, adjZ, adjK, adj1, adj0, mulmxDl, mulmxDr, mulNmx, mulmxN,
  mulZmx, mulmxZ, mulmx1, mul1mx, mulmx0, mul0mx, mulmxA).
Ltac entries := apply/matrixP => ? ?; rewrite ?(addE, oppE, scaleE, zeroE); ring.
(* Concrete matrices: every entry and sum is computed. *)
Ltac compute_entries := rewrite ?(mxE, big_ord_recl, big_ord0, eqxx) /=.
