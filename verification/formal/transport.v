(* A memory moves by the projection at the new state (docs/theory/directions.md).

   M is a tangent triple at U, V; U1, V1 are the new bases.  Nothing is assumed but that they are
   orthonormal. *)
From mathcomp Require Import all_ssreflect all_algebra ring.
From GeoLoRA Require Import setting tangent_projector.
Import GRing.Theory Num.Theory.

Section Transport.
Variables (R : comRingType) (J : involution R) (m n r s r1 s1 : nat).
Variables (U : 'M[R]_(m, r)) (V : 'M[R]_(n, s)) (U1 : 'M[R]_(m, r1)) (V1 : 'M[R]_(n, s1)).
Notation "A ^H" := (adj J A) (at level 2, format "A ^H").
Notation P1 := (proj J U1 V1).
Definition new_K (M_K : 'M[R]_(m, s)) (M_L : 'M[R]_(n, r)) :=
  M_K *m (V^H *m V1) + U *m ((1%:M - V *m V^H) *m M_L)^H *m V1.
Definition new_L (M_K : 'M[R]_(m, s)) (M_L : 'M[R]_(n, r)) :=
  M_L *m (U^H *m U1) + V *m ((1%:M - U *m U^H) *m M_K)^H *m U1.

Theorem transport_is_the_projection M_K M_L M_S : tangent J U V M_K M_L M_S ->
  isometry J U1 -> isometry J V1 -> let M := of_triple J U V M_K M_L M_S in
  [/\ new_K M_K M_L = P1 M *m V1, new_L M_K M_L = (P1 M)^H *m U1, U1^H *m new_K M_K M_L = U1^H *m P1 M *m V1
    & P1 M = of_triple J U1 V1 (new_K M_K M_L) (new_L M_K M_L) (U1^H *m new_K M_K M_L)].
Proof.
move=> [UK SL] isoU1 isoV1 M.
have LV k (A : 'M_(k, r)) : A *m M_L^H *m V = A *m M_S by rewrite -mulmxA SL adjM adjK.
have KU k (A : 'M_(k, s)) : A *m M_K^H *m U = A *m M_S^H by rewrite -mulmxA -UK adjM adjK.
have K : new_K M_K M_L = M *m V1.
  by rewrite /new_K /M /of_triple; expand; rewrite LV; entries.
have L : new_L M_K M_L = M^H *m U1.
  by rewrite /new_L /M /of_triple; expand; rewrite KU; entries.
rewrite K L; clearbody M; have [_ D] := triple_of_projection isoU1 isoV1 M.
have PV : P1 M *m V1 = M *m V1 by rewrite /proj; expand; rewrite !(isoK _ isoV1); entries.
have PU : (P1 M)^H *m U1 = M^H *m U1 by rewrite /proj; expand; rewrite !(isoK _ isoU1); entries.
by rewrite -PV -PU mulmxA; split=> //; rewrite D.
Qed.

(* Nothing tangential is closer: the square of the distance to X is that to P1 M and more. *)
Theorem projection_is_closest M X : isometry J U1 -> isometry J V1 -> P1 X = X ->
  inner J (M - X) (M - X) = inner J (M - P1 M) (M - P1 M) + inner J (P1 M - X) (P1 M - X).
Proof.
move=> isoU1 isoV1 PX; have PPM := projector_idempotent isoU1 isoV1 M.
have rest : P1 (M - P1 M) = 0 by rewrite addrC -scaleN1r projector_linear PPM scaleN1r addNr.
have tangential : P1 (P1 M - X) = P1 M - X by rewrite addrC -scaleN1r projector_linear PPM PX.
have normal : inner J (M - P1 M) (P1 M - X) = 0.
  by rewrite -tangential -projector_self_adjoint rest /inner adj0 mul0mx raddf0.
have -> : M - X = (M - P1 M) + (P1 M - X) by rewrite addrA subrK.
move: normal; move: (M - P1 M) (P1 M - X) => A B normal.
by rewrite innerDl !innerDr normal (inner_sym J A B) normal rmorph0 addr0 add0r.
Qed.
End Transport.

(* Control: the first summand alone, the image of M_K V^H, is not the projection. *)
Lemma first_summand_alone_is_wrong : exists (U V V1 : 'cV[rat]_2) (M_K M_L : 'cV[rat]_2) M_S,
  let J := no_conjugate rat in
  [/\ isometry J U, isometry J V, isometry J V1, tangent J U V M_K M_L M_S &
    M_K *m (adj J V *m V1) <> proj J U V1 (of_triple J U V M_K M_L M_S) *m V1].
Proof.
have e (i j : 'I_2) : adj (no_conjugate rat) (delta_mx i 0 : 'cV_2) *m (delta_mx j 0 : 'cV_2) = (i == j)%:R%:M.
  by rewrite /adj map_mx_id // trmx_delta mul_delta_mx_cond; apply/matrixP => k l; rewrite !ord1; case: eqP => _;
    rewrite !mxE.
pose a : 'cV[rat]_2 := delta_mx 0 0; pose b : 'cV[rat]_2 := delta_mx 1 0.
have triple : tangent (no_conjugate _) a a 0 b 0 by split; rewrite ?mulmx0 // e raddf0 adj0.
have [isoa isob] : isometry (no_conjugate _) a /\ isometry (no_conjugate _) b by rewrite /isometry !e.
exists a, a, b, 0, b, 0; split=> //; have [<- _ _ _] := transport_is_the_projection triple isoa isob.
have ba : adj (no_conjugate _) b *m a = 0 by rewrite e raddf0.
rewrite /new_K !mul0mx add0r; expand; rewrite (isoK _ isob) -(mulmxA a) ba mulmx0 !mul0mx subr0.
by move/matrixP/(_ 0 0); rewrite !mxE.
Qed.
