"""Correlated or unequal residuals beside effects that join their blocks, by Woodbury's identity.

V = V_b + Z (A (x) Sigma) Z', where V_b is block diagonal (residuals, and the effects whose levels
each lie within one block) and Z are the columns of all other effects: crossed factors, and factors
with related levels. With a root A (x) Sigma = Lambda Lambda' (Woodbury 1950; Henderson et al. 1959,
Biometrics 15, 192-218),

    M = I + Lambda'Z'V_b^-1 Z Lambda,    Q = Lambda M^-1 Lambda',
    V^-1 = V_b^-1 - V_b^-1 Z Q Z'V_b^-1,    log|V| = log|V_b| + log|M|,

for singular A and Sigma as well. M is dense, so that this is for some thousand of such effects;
rows are as many as one likes.
"""
