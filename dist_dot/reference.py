"""What a gradient is small beside, and what in it is rounding: where a fit stops."""

from dataclasses import dataclass

import numpy as np

from dist_dot.rows.block import Cuts
from dist_dot.typing import Array

# How far a sum of a gradient may be off, in roundings of a row's product times the root of their number. On 150 fits of
# float32 rows (six losses, n = 20 .. 20,000, p = 1 .. 160) it was 1 .. 10, the most with the most columns.
ROUNDING = 8.0
# The part of a column's sum of squares that may be rounding.
NOISE = 16.0 * float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class Sizes:
    """How large the numbers are that a gradient is the sum of: sums over the rows.

    `raw` (p,) is of s x^2, column by column, and `centred` the same about the mean. Where there is an intercept both
    have one entry more, the sum of s. `mean` (p,) is of the columns. `slopes` is of s r^2, where r is a row's slope,
    and `parts` of s m^2, where m is the size of the numbers whose difference r is.
    """

    raw: Array
    centred: Array
    mean: Array
    slopes: float
    parts: float


@dataclass(frozen=True)
class Reference:
    """What a gradient of F is small beside: the gradient (n_parameters,) at W = 0 and the best constant z.

    An entry of a gradient cannot be told from 0 below `rounding`. Where columns are centred and scaled, its norm cannot
    be below `centred` times that of this one: so the unit of no column decides. `norm` is that of the gradient in the
    coordinates that a solver starts in.
    """

    gradient: Array
    rounding: float
    centred: float
    norm: float = np.inf

    @property
    def floors(self) -> tuple[float, float]:
        """Below which part of the reference a gradient is rounding: its largest entry, and its norm."""
        largest = float(np.abs(self.gradient).max(initial=0.0))
        return self.rounding / largest if largest else 0.0, self.centred

    @classmethod
    def of(cls, gradient: Array, sizes: Sizes, cuts: Cuts) -> "Reference":
        """Return it. Sizes that overflow say nothing.

        Roundings are taken to be independent, row by row.

        Where y is constant, the gradient is 0 but for the rounding of the mean, the same in all rows. Then there is no
        gradient to be small beside, and what can be told from 0 takes its place.
        """
        eps = float(np.finfo(cuts.dtype).eps)
        raw, slopes, parts = np.sqrt(sizes.raw), float(np.sqrt(sizes.slopes)), float(np.sqrt(sizes.parts))
        largest = float(raw.max(initial=0.0))
        if not np.isfinite(largest * parts + largest * slopes):
            return cls(gradient, 0.0, 0.0)
        share = ROUNDING * eps / float(np.sqrt(cuts.n_samples))
        rounding = share * largest * parts
        each, p = gradient.reshape(raw.size, -1).copy(), sizes.mean.size
        kinds = [sizes.centred]
        if raw.size > p:
            each[:p] -= sizes.mean[:, None] * each[p]
        else:  # no column is centred, but solvers take apart what those far from 0 have in common: the stricter counts
            kinds = [sizes.raw, np.where(sizes.centred > NOISE * sizes.raw, sizes.centred, sizes.raw)]
        found = []
        for squares in kinds:
            # A constant column has a spread too, that of its own rounding.
            own = sizes.raw * float(np.finfo(np.float64).eps)
            clear = squares > NOISE * sizes.raw
            deviation = np.sqrt(np.where(squares > own, squares, np.where(own > 0, own, 1.0)))
            size = float(np.max((np.abs(each) / deviation[:, None])[clear], initial=0.0))
            if size <= eps * parts:  # the rounding of z is the same in all rows too
                rounding = max(rounding, eps * largest * parts)
                return cls(np.full_like(gradient, rounding), rounding, 1.0)
            far = (raw / deviation)[clear]
            most = float(np.minimum(parts + far * slopes, far * parts).max(initial=0.0))
            found.append(share * most / size)
        return cls(gradient, rounding, min(found))
