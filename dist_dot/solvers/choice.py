"""Which solver, where nobody says: from the loss, n, p, k and the kind of blocks."""

from dataclasses import dataclass

from dist_dot.errors import SolverError, suggestion
from dist_dot.losses import Squared
from dist_dot.problem import Function
from dist_dot.solvers.base import AnySolver
from dist_dot.solvers.exact import Exact, by_rows
from dist_dot.solvers.gradient import GradientDescent
from dist_dot.solvers.lbfgs import LBFGS
from dist_dot.solvers.needs import LinearRows
from dist_dot.solvers.newton import LARGEST, Newton

AUTO = "auto"
SOLVERS: dict[str, type[Exact | GradientDescent | LBFGS | Newton]] = {
    kind.name: kind for kind in (Exact, GradientDescent, LBFGS, Newton)
}

# Up to so many columns "auto" solves the squared loss exactly. That one round costs n p^2 operations: at the rates
# measured, 56 GF/s and 16 GB/s a core, as much as p / 28 passes over X. That is 6 on the flights, and 71 at two
# thousand columns, fewer than the passes of L-BFGS below. Beyond, the 8 p^2 bytes of every sum that travels tell: 32 MB
# here, as many as Newton's method is allowed.
WIDEST = 2000
# Memory of L-BFGS: 10 pairs took the flights 131 rounds, 30 took them 59.
MEMORY = 30
# What a run costs, in units of one read of X by one pass for one output (flights: 18 ms of two threads, the Hessian
# 240 ms): a pass of L-BFGS some 100 times, as many Hessians as Newton needs 10 times. A Hessian is p / 16 reads for
# each pair of outputs, since BLAS does some 2 n p^2 operations at 50 Gflop/s where a pass reads 8 n p bytes at 20 GB/s.
PASSES, HESSIANS, COLUMNS_PER_READ = 100, 10, 16
# Of the softmax of k classes, in seconds of two threads of the same processor: a pass takes n k (8 + 0.3 p) ns and 0.5
# ms; a Hessian takes n (4 + 0.5 p + 0.05 p^2) ns and 50 us for each pair of classes, and (k p)^3 / 10 ns to factorise.
# Newton needs some 8 of them.
NEWTON_STEPS, OF_PASS, OF_PAIR = 8, 5e-4, 5e-5
SHORT = 0.5  # seconds that Newton may take whatever L-BFGS takes: it ends with more digits than were asked for
# The same on a GPU (an H100, 2026-11-26): a Hessian is a launch or two for each block, some 0.1 ms, the rows written as
# float64 and read again, as long as 3 reads for 128 columns and 7 for 16, and 2 n p^2 operations at 30 Tflop/s where a
# pass reads at 2.9 TB/s. A round is 0.05 ms beside its pass.
ROUND, OF_BLOCK, READ, FLOP, REREADS = 5e-5, 1e-4, 1.0 / 2.9e12, 1.0 / 30e12, 7


@dataclass(frozen=True)
class Choice:
    """A solver, and in words why it is this one."""

    solver: AnySolver
    why: str

    def __str__(self) -> str:
        return f"{self.solver}: {self.why}"


def named(solver: str | AnySolver) -> AnySolver:
    """Return the solver of this name, with its default options; a solver stands for itself.

    Raises SolverError for an unknown word, and for what is no solver.
    """
    if not isinstance(solver, str):
        if isinstance(solver, type) or not callable(getattr(solver, "step", None)):
            words = "give 'auto', the name of a solver, or a solver such as LBFGS()"
            raise SolverError(f"solver is {solver!r}: {words}")
        return solver
    if solver not in SOLVERS:
        raise SolverError(f"unknown solver {solver!r}: {suggestion(solver, (AUTO, *SOLVERS))}")
    return SOLVERS[solver]()


def choose(solver: str | AnySolver, objective: Function, shared: bool = False) -> Choice:
    """Return the solver that a word stands for; a solver stands for itself. No round.

    "auto" is Exact for the squared loss of up to 2,000 columns, and of more where few rows can be gathered (see
    `Exact`); where many rows are fewer than columns all the same, it is L-BFGS in the space of the rows. Else it is
    Newton where its few Hessians cost no more than the many passes of L-BFGS, or no more than a second; else L-BFGS.
    Where several fits share the reads of X, Newton is left out. For another F than that of a linear model it is L-BFGS
    without a preconditioner. Raises SolverError for an unknown word, and for what is no solver.
    """
    if not (isinstance(solver, str) and solver == AUTO):
        return Choice(named(solver), "as given")
    if not isinstance(objective, LinearRows):
        why = f"{objective.n_parameters:,} parameters of {objective.problem.name}: it takes F and its gradient alone"
        return Choice(LBFGS(MEMORY, None), why)
    cuts, k = objective.blocks.cuts, objective.n_outputs
    sizes = f"n = {cuts.n_samples:,}, p = {cuts.n_features:,}, k = {k}"
    if objective.loss == Squared() and (cuts.n_features <= WIDEST or by_rows(cuts)):
        return Choice(Exact(), f"{sizes}: the squared loss is solved from one round")
    if objective.loss == Squared() and cuts.n_samples < cuts.n_features:
        why = "there are fewer rows than columns, too many to gather: the smallest w lies in the space of the rows"
        return Choice(LBFGS(MEMORY, "row_space"), f"{sizes}: {why}")
    if shared:
        return Choice(LBFGS(MEMORY), f"{sizes}: several fits share the reads of X, but no Hessians")
    if objective.n_parameters > LARGEST:
        why = f"{objective.n_parameters:,} parameters are too many to factorise"
        if objective.loss == Squared():
            why += "; should columns depend on each other, the solver 'exact' has the smallest w, and this one has not"
        return Choice(LBFGS(MEMORY), f"{sizes}: {why}")
    pairs = k * (k + 1) // 2 if objective.loss.outputs > 1 else k
    if objective.blocks.on_device:
        one = ROUND + cuts.nbytes * READ
        hessian = pairs * (cuts.n_blocks * OF_BLOCK + REREADS * cuts.nbytes * READ)
        hessian += pairs * 2.0 * cuts.n_samples * cuts.n_features**2 * FLOP
        if HESSIANS * hessian > PASSES * one:
            return Choice(LBFGS(MEMORY), f"{sizes}: on a GPU {HESSIANS} Hessians cost more than {PASSES} passes")
        return Choice(Newton(), f"{sizes}: on a GPU {HESSIANS} Hessians cost less than {PASSES} passes")
    if objective.loss.outputs > 1:
        return _of_classes(cuts.n_samples, cuts.n_features, k, sizes)
    hessians = HESSIANS * pairs * cuts.n_features / COLUMNS_PER_READ
    gflop = 2e-9 * HESSIANS * pairs * cuts.n_samples * cuts.n_features**2
    if hessians > PASSES * k and gflop > 50.0:
        return Choice(LBFGS(MEMORY), f"{sizes}: {HESSIANS} Hessians cost more than {PASSES} passes")
    return Choice(Newton(), f"{sizes}: {HESSIANS} Hessians cost less than {PASSES} passes, or a second")


def _of_classes(n: int, p: int, k: int, sizes: str) -> Choice:
    """Return the solver for the softmax of k classes on the host."""
    passes = PASSES * (OF_PASS + 1e-9 * n * k * (8.0 + 0.3 * p))
    pairs = k * (k - 1) / 2 * (OF_PAIR + 1e-9 * n * (4.0 + 0.5 * p + 0.05 * p * p))
    hessians = NEWTON_STEPS * (pairs + 1e-10 * (k * p) ** 3)
    if hessians > max(passes, SHORT):
        return Choice(LBFGS(MEMORY), f"{sizes}: {NEWTON_STEPS} Hessians of {k} classes cost more than {PASSES} passes")
    why = f"{NEWTON_STEPS} Hessians of {k} classes cost less than {PASSES} passes, or half a second"
    return Choice(Newton(), f"{sizes}: {why}")
