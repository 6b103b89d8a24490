"""What must be true of a fit, and of two fits to the same rows."""

import signal
import threading
import traceback
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from sklearn.model_selection import StratifiedKFold

from fuzz import fits
from fuzz.case import Case, Rows, rows_of
from fuzz.reference import SLACK, Reference

SECONDS = 60  # a fit of a case takes some milliseconds
REFUSALS = (
    "0 feature(s)",
    "there is nothing to train on",
    "n_splits=",
    "least populated class",
    "has no rows",
    "minimum of 1 is required",
    "no row of fold",
    "all have the weight 0",
    "without the rows of fold",
)
CLEAR = 1e-8  # an eigenvalue below this part of the largest one is that of a direction in which nothing is compared


@dataclass(frozen=True)
class Find:
    """What is not as it should be: a kind, by which finds are grouped, and the numbers.

    `said` is whether the fit has said so itself. It is at no minimum though it could be: MAX_ITER and STALLED. Or what
    is left is rounding, AT_ROUNDING, and the laxer bound agrees.
    """

    kind: str
    words: str
    said: bool = False


class SlowError(Exception):
    """A case took longer than SECONDS."""


def check(case: Case, client: Any = None) -> list[Find] | None:
    """Return what is wrong with a case; None where its rows are none that can be fitted."""
    rows = rows_of(case)
    if rows is None:
        return None
    watched = threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGALRM, _too_slow) if watched else None
    try:
        if watched:
            signal.alarm(SECONDS)
        return _compared(case, rows, client)
    except SlowError:
        return [Find("slow", f"{SECONDS} s")]
    finally:
        if watched:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)


def _too_slow(number: int, frame: Any) -> None:
    raise SlowError


def _attempt(case: Case, rows: Rows, where: str) -> tuple[fits.Outcome | None, list[Find]]:
    try:
        found = fits.fit(case, rows)
    except SlowError:
        raise
    except Exception as error:
        if isinstance(error, ValueError) and any(word in str(error) for word in REFUSALS):
            return None, []
        last = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{type(error).__name__}: {str(error)[:200]} ({last.filename.split('/')[-1]}:{last.lineno})"
        return None, [Find(f"{where}error {type(error).__name__}", words)]
    return found, [Find(f"{where}RuntimeWarning", word) for word in found.warned[:1]]


def _compared(case: Case, rows: Rows, client: Any) -> list[Find]:
    found, finds = _attempt(case, rows, "")
    if found is None:
        return finds
    here = replace(rows, alpha=found.alpha)
    reference = Reference(here)
    finds += _minimum(case, reference, found, "")
    if any(find.kind.startswith("not finite") for find in finds):
        return finds
    other = fits.variant(case, rows, client)
    if other is not None:
        with _cluster(client) if case.variant == "cluster" else _nothing():
            again, more = _attempt(other.case, other.rows, f"{case.variant}: ")
        finds += more
        if again is not None:
            there = Reference(replace(other.plain or other.rows, alpha=again.alpha))
            finds += _minimum(other.case, there, again, f"{case.variant}: ")
            again = other.back(again)
            finds += _alike(case, reference, found, again, other.bits)
    return finds


def _nothing() -> Any:
    return warnings.catch_warnings()


def _cluster(client: Any) -> Any:
    return client.as_current() if client is not None else _nothing()


def _minimum(case: Case, reference: Reference, found: fits.Outcome, where: str) -> list[Find]:
    """Return what is wrong with a fit by itself: how it ended, the gradient there, and that w is the smallest."""
    word, point = fits.solver_of(case), found.point
    kind = f"{case.family} {word} {case.dtype if case.dtype == 'float32' else ''}".strip()
    if not (np.all(np.isfinite(point.W)) and np.all(np.isfinite(point.b))):
        return [Find(f"not finite: {where}{kind}", f"W {point.W.ravel()[:5]}, b {point.b}, {found.status}")]
    (scaled, bound), (plain, plain_bound), (_, lax) = reference.residual(point, fits.TOL)
    worst, surely = (max(_ratio(scaled, most), _ratio(plain, plain_bound)) for most in (bound, lax))
    words = (
        f"{worst:.0e} and {surely:.0e} times the bounds, {found.status}: gradient {scaled:.1e} of columns of "
        f"curvature 1, bound {bound:.1e} and {lax:.1e}; {plain:.1e} as it is, bound {plain_bound:.1e}"
    )
    what = "no minimum" if not surely <= 1 else "no minimum but for rounding"
    if found.status == "MAX_ITER":
        kind = f"{what if worst > 1 else 'at the minimum'}, MAX_ITER: {where}{kind}"
        return [Find(kind, words, said=True)] if _should_have_ended(reference, found, word) else []
    if found.status == "STALLED":  # which is no minimum, and says so
        there = all(size <= most / 2 for size, most in reference.residual(point, 0.0)[:2])
        there &= not reference.lost(point)
        kind = f"{'at the minimum' if there else what}, STALLED: {where}{kind}"
        return [Find(kind, words, said=True)] if there or (worst > 1 and _well_conditioned(reference, found)) else []
    if found.status not in ("CONVERGED", "AT_ROUNDING"):
        return [Find(f"{found.status}: {where}{kind}", words)]
    gram = word == "gram" or (case.route == "cv" and case.family == "squared")
    if gram and found.note and not worst <= 1:
        return []  # it loses the square of the condition, and says so
    if found.status == "AT_ROUNDING" and "combinations of other columns, to rounding" in found.note:
        if reference.p * reference.k <= 100 and reference.clear_gradient(point, CLEAR) <= lax:
            return []  # what is left is along combinations, where F falls by less than its rounding
    if found.status == "CONVERGED" and plain <= plain_bound and reference.p * reference.k <= 100:
        if reference.decrement(point) <= SLACK * fits.TOL:
            return []  # small in Newton's coordinates, if not in those of columns of curvature 1
    if not worst <= 1:
        said = surely <= 1 and found.status == "AT_ROUNDING"
        return [Find(f"{what}, {found.status}: {where}{kind}", words, said)]
    if case.family == "squared" and not found.alpha and word in ("auto", "gram", "qr"):
        share = reference.dependence(point)
        if share > 1e-6:
            return [Find(f"not the smallest w: {where}{kind}", f"{share:.1e} of it is outside of the rows' space")]
    return []


def _ratio(size: float, bound: float) -> float:
    return size / max(bound, 1e-300)


def _should_have_ended(reference: Reference, found: fits.Outcome, word: str) -> bool:
    """Newton's steps are few wherever there is a minimum; those of L-BFGS where the condition is moderate.

    The curvature of the Huber loss jumps, where a row becomes an outlier: a step of Newton's may end at each jump.
    """
    well = _well_conditioned(reference, found)
    smooth = reference.rows.family != "huber"
    return word != "gradient" and (well or (word != "lbfgs" and smooth and found.alpha > 0))


def _well_conditioned(reference: Reference, found: fits.Outcome) -> bool:
    """Every solver comes to the minimum there: no direction is flat, and z is no difference of large numbers."""
    sizes = reference.hessian(found.point)[0]
    far = np.abs(reference.m) * np.sqrt(reference.s.sum()) > 1e4 * reference.d[:-1].min(axis=1)
    return bool(sizes[0] > 1e-4 * sizes[-1] and not far.any())


def _alike(case: Case, reference: Reference, one: fits.Outcome, other: fits.Outcome, bits: bool) -> list[Find]:
    kind = f"{case.variant}: {case.family} {fits.solver_of(case)}"
    if bits:
        same = np.array_equal(one.point.W, other.point.W) and np.array_equal(one.point.b, other.point.b)
        words = f"{one.point.W.ravel()[:3]} {other.point.W.ravel()[:3]} {one.point.b} {other.point.b}"
        return [] if same else [Find(f"other bits: {kind} {case.route}", words)]
    if abs(one.alpha - other.alpha) > 1e-6 * one.alpha:
        rounding = max(1e-8, 8 * float(np.finfo(reference.rows.y.dtype).eps))
        near = None in (one.score, other.score) or abs(one.score - other.score) <= rounding * abs(one.score)
        near |= bool(one.note and other.note)  # both say that they have lost the square of the condition
        near |= case.family in ("softmax", "logistic") and _lacks_a_class(reference.rows)
        words = f"{one.alpha} scores {one.score}, {other.alpha} {other.score}"
        return [] if near else [Find(f"another alpha: {kind}", words)]
    if reference.p * reference.k > 100:
        return []
    if {"MAX_ITER", "STALLED"} & {one.status, other.status}:
        return []
    sizes, V = reference.hessian(one.point)
    kept = sizes > CLEAR * sizes[-1]
    if not kept.any():
        return []
    here, there = reference.scaled(one.point), reference.scaled(other.point)
    if not reference.rows.intercept:
        here, there = here[: -reference.k], there[: -reference.k]
        V = V[: -reference.k]
    apart, outside = float(np.linalg.norm(V[:, kept].T @ (here - there))), V[:, ~kept].T @ (here - there)
    allowed = sum(reference.residual(each.point, fits.TOL)[0][1] for each in (one, other)) / sizes[kept][0]
    allowed += reference.bend(np.maximum(sizes[~kept], 0.0) @ outside**2) / sizes[kept][0]
    allowed += 1e-14 * float(np.linalg.norm(here) + np.linalg.norm(there)) / (sizes[kept][0] / sizes[-1])
    if allowed > 1e-2 * np.linalg.norm(here):
        return []  # what comes to first order says nothing so far away
    return [] if apart <= 4 * allowed else [Find(f"other coefficients: {kind}", f"{apart:.1e} > {4 * allowed:.1e}")]


def _lacks_a_class(rows: Rows) -> bool:
    """Whether a class has no weight where a fold is left out: its intercept has no minimum, and the score no value."""
    s = np.ones(len(rows.y)) if rows.s is None else rows.s
    classes = np.unique(rows.y)
    splits = StratifiedKFold(3).split(rows.y, rows.y)
    return any(not s[train][rows.y[train] == c].sum() > 0 for train, _ in splits for c in classes)


def script(case: Case) -> str:
    """Return a small program that does the fit of a case alone."""
    return "\n".join(
        (
            "from fuzz.case import Case, rows_of",
            "from fuzz.fits import fit, variant",
            "from fuzz.reference import SLACK, Reference",
            f"case = {case!r}",
            "rows = rows_of(case)",
            "found = fit(case, rows)",
            "print(found, Reference(rows).residual(found.point, 1e-12))",
        )
    )
