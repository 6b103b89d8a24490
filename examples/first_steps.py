"""Fit y = 2 x by gradient descent, and watch the loss."""

import numpy as np

from dist_dot import Objective, Progress, lay_out, losses, minimise, solvers

x, y = np.array([1, 2, 3, 4, 5]), np.array([2, 4, 6, 8, 10])


def show(progress: Progress) -> None:
    """Print the loss every 100 iterations."""
    if progress.iteration % 100 == 0:
        print(f"iteration {progress.iteration:4d}   loss {progress.value:.6g}")


objective = Objective(lay_out(x.reshape(-1, 1), y), losses.Squared(), alpha=0.0, fit_intercept=False)
descent = solvers.GradientDescent(learning_rate=0.01, momentum=None, preconditioner=None)
fit = minimise(objective, descent, tol=0.0, max_iter=1000, callbacks=(show,))
print(f"w = {fit.w[0]:.15g} after {fit.n_iter} iterations ({fit.status.name})")
