"""How w moves: one algorithm per file, each with its options, its state and its step."""

from dist_dot.solvers.base import Solver
from dist_dot.solvers.choice import Choice, choose
from dist_dot.solvers.exact import Exact
from dist_dot.solvers.gradient import GradientDescent
from dist_dot.solvers.lbfgs import LBFGS
from dist_dot.solvers.newton import Newton

__all__ = ["LBFGS", "Choice", "Exact", "GradientDescent", "Newton", "Solver", "choose"]
