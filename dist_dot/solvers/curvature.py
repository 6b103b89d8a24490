"""A safe bound of the largest curvature, from a few products."""

from collections.abc import Callable

import numpy as np

from dist_dot.typing import Array

PRODUCTS = 10
SEED = 20
MARGIN = 1.01


def largest_curvature(product: Callable[[Array], Array], size: int) -> float:
    """Return an upper bound of the largest eigenvalue of a symmetric positive semi-definite matrix.

    Lanczos with full reorthogonalisation from a fixed random start, at most ten products (rounds). The largest Ritz
    value approaches the eigenvalue from below; added to it is the norm of the last residual (Zhou and Li, Bounding
    the spectrum of large Hermitian matrices (2011), equation 2.5), which holds unless the start is almost orthogonal
    to the leading eigenvector, and one per cent for rounding. Plain power iteration needs more rounds for a worse
    estimate. A matrix of zeros has the bound 1.
    """
    basis = np.zeros((min(PRODUCTS, size), size))
    alphas, betas = [], []
    vector = np.random.default_rng(SEED).standard_normal(size)
    vector /= np.linalg.norm(vector)
    for k in range(basis.shape[0]):
        basis[k] = vector
        image = product(vector)
        alphas.append(float(vector @ image))
        for _ in range(2):  # twice is enough
            image = image - basis[: k + 1].T @ (basis[: k + 1] @ image)
        betas.append(float(np.linalg.norm(image)))
        if betas[-1] <= 1e-12 * max(alphas):
            break  # the space is exhausted: the Ritz values are eigenvalues
        vector = image / betas[-1]
    tridiagonal = np.diag(alphas) + np.diag(betas[:-1], 1) + np.diag(betas[:-1], -1)
    bound = float(np.linalg.eigvalsh(tridiagonal)[-1]) + betas[-1]
    return MARGIN * bound if bound > 0 else 1.0
