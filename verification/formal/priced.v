(* Truncation priced by the step (docs/theory/priced.md), and what a relative threshold can hold.

   Assumed: the descent lemma, as in descent.v.  P is linear, self-adjoint and idempotent; norms stand as numbers
   a >= 0 with |X|^2 <= a^2.  The bound of eta is an identity between matrices; that the spectral norms of products
   of orthonormal bases are at most 1 stays on paper. *)
From mathcomp Require Import all_ssreflect all_algebra ring lra.
From GeoLoRA Require Import setting scalar_product telescoping.
Import Order.TTheory GRing.Theory Num.Theory.

Section Norms.
Variables (R : realFieldType) (E : lmodType R) (d : scalar_product E).
Lemma opposite X Y : d X (- Y) = - d X Y. Proof. by rewrite -scaleN1r dotZ mulN1r. Qed.
Lemma zero X : d X 0 = 0. Proof. by rewrite -(scale0r 0) dotZ mul0r. Qed.
Lemma opposite_square X : d (- X) (- X) = d X X. Proof. by rewrite opposite dotC opposite opprK. Qed.
Lemma triangle X Y a b : 0 <= a -> 0 <= b -> d X X <= a ^+ 2 -> d Y Y <= b ^+ 2 -> d (X + Y) (X + Y) <= (a + b) ^+ 2.
Proof.
by move=> a0 b0 Xa Yb; have := norm_bound a0 b0 Xa Yb; rewrite -[X]scale1r -[Y]scale1r dot_combination !scale1r; lra.
Qed.
End Norms.

Section Priced.
Variables (R : realFieldType) (E : lmodType R) (d : scalar_product E) (L : E -> R) (grad : E -> E) (P : E -> E) (beta : R).
Hypothesis beta_ge0 : 0 <= beta.
Hypothesis smooth : forall X D, L (X + D) <= L X + d (grad X) D + beta / 2 * d D D.
Hypothesis P_linear : forall a X Y, P (a *: X + Y) = a *: P X + P Y.
Hypothesis P_self_adjoint : forall X Y, d (P X) Y = d X (P Y).
Hypothesis P_idempotent : forall X, P (P X) = P X.
Variables (W D W1 : E) (lambda l eps eta : R).
Let G := grad W.
Let T := W - lambda *: D - W1.
Hypotheses (W_tangential : P W = W) (D_tangential : P D = D).
Hypotheses (lambda_ge0 : 0 <= lambda) (l_ge0 : 0 <= l) (eps_ge0 : 0 <= eps)
  (eta_ge0 : 0 <= eta).
Hypothesis length : d D D <= l ^+ 2.
Hypotheses (normal : d (G - P G) (G - P G) <= eps ^+ 2) (outside : d (W1 - P W1) (W1 - P W1) <= eta ^+ 2).

Lemma PB X Y : P (X - Y) = P X - P Y. Proof. by rewrite addrC -scaleN1r P_linear scaleN1r addrC. Qed.
Lemma normal_part : T - P T = - (W1 - P W1).
Proof.
have -> : T = (- lambda) *: D + W - W1 by rewrite /T scaleNr [- _ + W]addrC.
by rewrite PB P_linear D_tangential W_tangential !opprB addrC addrA subrK.
Qed.

Theorem cut_at_any_rank p theta : 0 <= p -> 0 <= theta -> d (P G) (P G) <= p ^+ 2 -> d T T <= theta ^+ 2 ->
  L W1 <= L W - lambda * d G D + p * theta + eps * eta + beta / 2 * (lambda * l + theta) ^+ 2.
Proof.
move=> p_ge0 theta_ge0 tangential cut.
have -> : W1 = W + (- (lambda *: D + T)) by rewrite /T addrAC [_ + (_ - _)]addrC subrK opprB addrC subrK.
apply: le_trans (smooth _ _) _; rewrite opposite_square opposite dotD dotZ -/G.
have split_G : d G T = d (P G) T - d (G - P G) (W1 - P W1).
  have -> : d (G - P G) (W1 - P W1) = - d (G - P G) (T - P T) by rewrite normal_part opposite opprK.
  rewrite dotD [d (G - P G) (- _)]opposite -P_self_adjoint PB P_idempotent subrr.
  by rewrite [d 0 _]dotC zero oppr0 addr0 [d (G - P G) _]dotC dotD opposite ![d T _]dotC; ring.
have len : d (lambda *: D) (lambda *: D) <= (lambda * l) ^+ 2.
  by rewrite dotZ dotC dotZ mulrA -expr2 exprMn ler_wpM2l ?sqr_ge0.
have moved := triangle (mulr_ge0 lambda_ge0 l_ge0) theta_ge0 len cut.
have b2 : 0 <= beta / 2 by rewrite divr_ge0.
have := ler_wpM2l b2 moved; have := norm_bound eps_ge0 eta_ge0 normal outside.
have : d (P G) (- T) <= p * theta by apply: norm_bound => //; rewrite opposite_square.
rewrite split_G opposite; lra.
Qed.

(* The price of a share gamma: theta = gamma lambda <M, D> / |M| for M = P grad L + an error; 0 where M = 0. *)
Theorem priced_decrease M m e gamma : 0 <= gamma -> 0 <= d M D -> 0 <= m -> d M M = m ^+ 2 -> 0 <= e ->
  d (M - P G) (M - P G) <= e ^+ 2 -> d T T <= (gamma * lambda * d M D / m) ^+ 2 ->
  L W1 <= L W - (1 - gamma) * lambda * d M D + (1 + gamma) * lambda * e * l + eps * eta +
    beta / 2 * (1 + gamma) ^+ 2 * lambda ^+ 2 * l ^+ 2.
Proof.
move=> g0 s0 m0 Mm e0 error; set theta := _ / m => cut.
have slope : d M D <= m * l by apply: norm_bound => //; rewrite Mm.
have gl : 0 <= gamma * lambda by rewrite mulr_ge0.
have theta0 : 0 <= theta by rewrite divr_ge0 ?mulr_ge0.
have [short spent] : theta <= gamma * lambda * l /\ m * theta <= gamma * lambda * d M D.
  rewrite /theta; have [-> | mN] := eqVneq m 0; first by rewrite invr0 mulr0 mulr0 !mulr_ge0.
  split; last by rewrite mulrC divfK.
  by rewrite ler_pdivrMr ?lt0r ?mN // -[leRHS]mulrA ler_wpM2l // [l * m]mulrC.
have PG : d (P G) (P G) <= (m + e) ^+ 2.
  have -> : P G = M + - (M - P G) by rewrite opprB addrC subrK.
  by apply: triangle => //; rewrite ?Mm // opposite_square.
have := cut_at_any_rank (addr_ge0 m0 e0) theta0 PG cut.
have ED : - d G D <= - d M D + e * l.
  have : d (M - P G) D <= e * l by apply: norm_bound.
  by rewrite dotC dotD opposite dotC [d D (P G)]dotC P_self_adjoint D_tangential; lra.
have := ler_wpM2l lambda_ge0 ED; have := ler_wpM2l e0 short.
have wide : lambda * l + theta <= (1 + gamma) * lambda * l by lra.
have left0 : 0 <= lambda * l + theta by apply: addr_ge0 => //; exact: mulr_ge0.
have : (lambda * l + theta) ^+ 2 <= (1 + gamma) ^+ 2 * lambda ^+ 2 * l ^+ 2.
  by rewrite -!exprMn ler_pXn2r ?nnegrE //; apply: le_trans wide.
have b2 : 0 <= beta / 2 by rewrite divr_ge0.
by move=> /(ler_wpM2l b2); rewrite mulrDl; lra.
Qed.
End Priced.

(* The normal part of what is kept: U1 S1 V1^H is the truncation of W_hat = W - lambda D, and Si the inverse of S1. *)
Section NormalPart.
Variables (R : comRingType) (J : involution R) (m n r s k : nat) (U : 'M[R]_(m, r)) (V : 'M[R]_(n, s)) (S : 'M[R]_(r, s)).
Variables (U1 : 'M[R]_(m, k)) (V1 : 'M[R]_(n, k)) (S1 Si : 'M[R]_k) (X : 'M[R]_(m, n)).
Notation "A ^H" := (adj J A) (at level 2, format "A ^H").
Hypotheses (left_of_cut : U1^H *m X = S1 *m V1^H) (inverse : Si *m S1 = 1%:M).
Theorem normal_part_of_the_cut : (1%:M - U *m U^H) *m (X *m V1 *m V1^H) *m (1%:M - V *m V^H) =
  (1%:M - U *m U^H) *m X *m V1 *m Si *m U1^H *m (X *m (1%:M - V *m V^H)).
Proof.
have -> : V1^H = Si *m (U1^H *m X) by rewrite left_of_cut mulmxA inverse mul1mx.
by rewrite !mulmxA.
Qed.
End NormalPart.

(* Controls: the price is attained, for the loss x; with 4/5 of it the bound fails. *)
Lemma price_is_attained (R : comRingType) (W lambda gamma : R) :
  W - lambda - - (gamma * lambda) = W - (1 - gamma) * lambda.
Proof. by ring. Qed.
Lemma four_fifths_of_the_price_is_wrong : exists lambda gamma : rat, [/\ 0 < lambda, 0 < gamma < 1 &
  - lambda + (4 / 5) * gamma * lambda < - lambda - - (gamma * lambda)].
Proof. by exists 1, (1 / 2); split; lra. Qed.
