/* One step of GeoLoRA in C, real and complex: reads a test vector, writes U1, S1, V1.

       cc -O2 -o step step.c -lm
       ./step vectors/exact-wide.json > outputs/exact-wide.json

   Matrices are stored by columns.  The names are those of the paper; H is the conjugate transpose. */
#include <complex.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef double complex num;
#define AT(A, rows, i, j) (A)[(size_t)(j) * (rows) + (i)]

static num *zeros(int rows, int cols) { return calloc((size_t)rows * cols + 1, sizeof(num)); }

/* --- the vector: keys are unique enough that no JSON library is needed ---------------------------------------------- */

static const char *after(const char *text, const char *key) {
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    text = strstr(text, quoted);
    if (!text) { fprintf(stderr, "no %s\n", key); exit(2); }
    return strchr(text + strlen(quoted), ':') + 1;
}

static int integer(const char *text, const char *key, int if_null) {
    int value = if_null;
    sscanf(after(text, key), "%d", &value);
    return value;
}

static double real(const char *text, const char *key, double if_null) { /* "0x1.8p+0" or null; strtod reads hexadecimal */
    const char *p = after(text, key);
    while (*p == ' ') p++;
    return *p == '"' ? strtod(p + 1, NULL) : if_null;
}

static num *matrix(const char *text, const char *key, int rows, int cols, int is_complex) {
    num *A = zeros(rows, cols);
    const char *p = after(text, key);
    for (int part = 0; part <= is_complex; part++) {
        p = after(p, part ? "im" : "re");
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < cols; j++) {
                p = strchr(p, '"') + 1;
                AT(A, rows, i, j) += (part ? I : 1.0) * strtod(p, NULL);
                p = strchr(p, '"') + 1;
            }
    }
    return A;
}

static void print(const char *name, const num *A, int rows, int cols, int is_complex) {
    printf(", \"%s\": {", name);
    for (int part = 0; part <= is_complex; part++) {
        printf(part ? ", \"im\": [" : "\"re\": [");
        for (int i = 0; i < rows; i++)
            for (int j = 0; j < cols; j++)
                printf("%s\"%a\"%s", j ? ", " : i ? ", [" : "[", part ? cimag(AT(A, rows, i, j)) : creal(AT(A, rows, i, j)),
                       j == cols - 1 ? "]" : "");
        printf("]");
    }
    printf("}");
}

/* --- a little linear algebra ---------------------------------------------------------------------------------------- */

static num *product(const num *A, const num *B, int rows, int inner, int cols) { /* A B */
    num *C = zeros(rows, cols);
    for (int j = 0; j < cols; j++)
        for (int k = 0; k < inner; k++)
            for (int i = 0; i < rows; i++) AT(C, rows, i, j) += AT(A, rows, i, k) * AT(B, inner, k, j);
    return C;
}

static num *adjoint(const num *A, int rows, int cols) {
    num *B = zeros(cols, rows);
    for (int i = 0; i < rows; i++)
        for (int j = 0; j < cols; j++) AT(B, cols, j, i) = conj(AT(A, rows, i, j));
    return B;
}

static double norm(const num *x, int n) { /* scaled, so that nothing overflows or underflows */
    double largest = 0.0, sum = 0.0;
    for (int i = 0; i < n; i++) largest = fmax(largest, cabs(x[i]));
    if (largest == 0.0) return 0.0;
    for (int i = 0; i < n; i++) sum += pow(cabs(x[i]) / largest, 2);
    return largest * sqrt(sum);
}

/* Put x, made orthogonal to the first `known` columns of Q and normalised, into column `known`; 0 if nothing is left of it. */
static int append(num *Q, int rows, int known, const num *x) {
    num *q = &AT(Q, rows, 0, known);
    double size = norm(x, rows);
    if (size == 0.0) return 0;
    for (int i = 0; i < rows; i++) q[i] = x[i] / size;
    for (int pass = 0; pass < 3; pass++) { /* the first pass may cancel all digits; the next ones repair what it leaves */
        for (int j = 0; j < known; j++) {
            num overlap = 0.0;
            for (int i = 0; i < rows; i++) overlap += conj(AT(Q, rows, i, j)) * q[i];
            for (int i = 0; i < rows; i++) q[i] -= overlap * AT(Q, rows, i, j);
        }
        size = norm(q, rows);
        if (size == 0.0 || (pass == 2 && size < 0.5)) return 0;
        for (int i = 0; i < rows; i++) q[i] /= size;
    }
    return 1;
}

/* Append x, or some unit vector where x has nothing new. */
static void append_or_complete(num *Q, int rows, int known, const num *x) {
    num *unit = zeros(rows, 1);
    for (int i = -1; i < rows; i++) {
        if (i >= 0) memset(unit, 0, rows * sizeof(num)), unit[i] = 1.0;
        if (append(Q, rows, known, i < 0 ? x : unit)) break;
    }
    free(unit);
}

/* One-sided Jacobi: A (rows >= cols) = P diag(sigma) Q^H, falling; A is overwritten. */
static void svd(num *A, int rows, int cols, num *P, double *sigma, num *Q) {
    for (int j = 0; j < cols; j++) AT(Q, cols, j, j) = 1.0;
    for (int sweep = 0, rotated = 1; rotated && sweep < 60; sweep++) {
        rotated = 0;
        for (int i = 0; i < cols; i++)
            for (int j = i + 1; j < cols; j++) {
                num *a = &AT(A, rows, 0, i), *b = &AT(A, rows, 0, j), overlap = 0.0;
                double na = norm(a, rows), nb = norm(b, rows);
                if (na == 0.0 || nb == 0.0) continue;
                for (int k = 0; k < rows; k++) overlap += conj(a[k] / na) * (b[k] / nb);
                if (cabs(overlap) <= 1e-15) continue;
                rotated = 1;
                double zeta = (nb / na - na / nb) / (2.0 * cabs(overlap));
                double t = (zeta >= 0 ? 1.0 : -1.0) / (fabs(zeta) + hypot(1.0, zeta)), c = 1.0 / hypot(1.0, t), s = c * t;
                num phase = overlap / cabs(overlap);
                for (int k = 0; k < rows; k++) {
                    num x = a[k], y = b[k] * conj(phase);
                    a[k] = c * x - s * y, b[k] = s * x + c * y;
                }
                for (int k = 0; k < cols; k++) {
                    num x = AT(Q, cols, k, i), y = AT(Q, cols, k, j) * conj(phase);
                    AT(Q, cols, k, i) = c * x - s * y, AT(Q, cols, k, j) = s * x + c * y;
                }
            }
    }
    for (int j = 0; j < cols; j++) { /* largest column next */
        int largest = j;
        for (int k = j + 1; k < cols; k++)
            if (norm(&AT(A, rows, 0, k), rows) > norm(&AT(A, rows, 0, largest), rows)) largest = k;
        for (int i = 0; i < rows; i++) {
            num x = AT(A, rows, i, j);
            AT(A, rows, i, j) = AT(A, rows, i, largest), AT(A, rows, i, largest) = x;
        }
        for (int i = 0; i < cols; i++) {
            num x = AT(Q, cols, i, j);
            AT(Q, cols, i, j) = AT(Q, cols, i, largest), AT(Q, cols, i, largest) = x;
        }
        sigma[j] = norm(&AT(A, rows, 0, j), rows);
        append_or_complete(P, rows, j, &AT(A, rows, 0, j));
    }
}

/* --- Algorithm 1 ---------------------------------------------------------------- */

/* Line 3: B S - rate * gradient. */
static num *coefficient_update(const num *B, const num *S, const num *gradient,
                               double rate, int rows, int r) {
    num *K = product(B, S, rows, r, r);
    for (int i = 0; i < rows * r; i++) K[i] -= rate * gradient[i];
    return K;
}

/* Line 4: [B | B_tilde], B as it is. */
static num *augmented(const num *B, const num *X, int rows, int r, int total) {
    num *Q = zeros(rows, total);
    memcpy(Q, B, (size_t)rows * r * sizeof(num));
    for (int j = r; j < total; j++) append_or_complete(Q, rows, j, &AT(X, rows, 0, j - r));
    return Q;
}

int main(int argc, char **argv) {
    FILE *file = argc == 2 ? fopen(argv[1], "r") : NULL;
    if (!file) return fprintf(stderr, "usage: step VECTOR.json > OUTPUT.json\n"), 2;
    static char text[1 << 20];
    text[fread(text, 1, sizeof text - 1, file)] = 0;

    int m = integer(text, "m", 0), n = integer(text, "n", 0), r = integer(text, "r", 0);
    int is_complex = strncmp(strchr(after(text, "dtype"), '"'), "\"complex128\"", 12) == 0;
    const char *inputs = after(text, "inputs"), *parameters = after(text, "parameters");
    num *U = matrix(inputs, "U", m, r, is_complex);
    num *S = matrix(inputs, "S", r, r, is_complex);
    num *V = matrix(inputs, "V", n, r, is_complex);
    num *dK = matrix(inputs, "dK", m, r, is_complex);
    num *dL = matrix(inputs, "dL", n, r, is_complex);
    num *dS = matrix(inputs, "dS", r, r, is_complex);
    double rate = real(parameters, "learning_rate", 0.0);
    double tau = real(parameters, "tau", 0.0), theta = real(parameters, "theta", -1.0);

    num *K_new = coefficient_update(U, S, dK, rate, m, r); /* line 3 */
    num *L_new = coefficient_update(V, adjoint(S, r, r), dL, rate, n, r);
    int p = 2 * r < m ? 2 * r : m, q = 2 * r < n ? 2 * r : n;
    num *U_hat = augmented(U, K_new, m, r, p); /* line 4 */
    num *V_hat = augmented(V, L_new, n, r, q);

    num *K_block = product(adjoint(U_hat, m, p), K_new, p, m, r);
    num *L_block = product(adjoint(V_hat, n, q), L_new, q, n, r);
    num *S_hat = zeros(p, q); /* line 5 */
    for (int i = 0; i < p; i++)
        for (int j = 0; j < q; j++)
            AT(S_hat, p, i, j) = i < r && j < r ? AT(S, r, i, j) - rate * AT(dS, r, i, j)
                                 : j < r        ? AT(K_block, p, i, j)
                                 : i < r        ? conj(AT(L_block, q, j, i))
                                                : 0.0;

    /* line 6; the decomposition wants at least as many rows as columns */
    int wide = p < q, count = wide ? p : q;
    num *P = zeros(p, count), *Q = zeros(q, count);
    double *sigma = calloc(count, sizeof(double));
    if (wide) svd(adjoint(S_hat, p, q), q, p, Q, sigma, P);
    else svd(S_hat, p, q, P, sigma, Q);
    double *tail = calloc(count + 1, sizeof(double));
    for (int j = count - 1; j >= 0; j--) tail[j] = hypot(tail[j + 1], sigma[j]);
    if (theta < 0.0) theta = tau * tail[0];
    int rank = 0, most = integer(parameters, "max_rank", count);
    int least = integer(parameters, "min_rank", 1);
    while (rank < count && tail[rank] > theta) rank++;
    rank = rank > most ? most : rank < least ? least : rank;
    rank = rank > count ? count : rank;

    num *S1 = zeros(rank, rank);
    for (int j = 0; j < rank; j++) AT(S1, rank, j, j) = sigma[j];
    const char *id = strchr(after(text, "id"), '"') + 1;
    printf("{\"id\": \"%.*s\"", (int)(strchr(id, '"') - id), id);
    print("U1", product(U_hat, P, m, p, rank), m, rank, is_complex);
    print("S1", S1, rank, rank, is_complex);
    print("V1", product(V_hat, Q, n, q, rank), n, rank, is_complex);
    printf("}\n");
    return 0;
}
