"""The losses that the passes on a card have, and those of the user's own."""

from dist_dot.losses import Gamma, Huber, Logistic, Loss, Poisson, Softmax, Squared

# As enum Loss of cuda/common.cuh.
CODES: dict[type, int] = {Squared: 0, Logistic: 1, Poisson: 2, Gamma: 3, Huber: 4, Softmax: 5}
OWN = 6


def code_of(loss: Loss) -> tuple[int, float, str] | None:
    """Return the code of a loss, the number it takes, and its C++ where it is of the user's own; None for no pass.

    A loss of the user's own has a pass where it has an attribute `cuda`, see `dist_dot.losses`.
    """
    code = CODES.get(type(loss))
    if code is not None:
        return code, float(getattr(loss, "delta", 1.0)), ""
    own = getattr(loss, "cuda", "")
    return (OWN, 0.0, own) if own and loss.outputs == 1 else None
