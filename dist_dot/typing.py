"""The few type names that every layer shares."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""A NumPy array; on a GPU worker the blocks hold arrays of another library with the same methods."""
AnyArray: TypeAlias = Any
"""What a caller hands in as an array, of any library or none, before it is looked at."""
DeviceArray: TypeAlias = Any
"""A CuPy array, or a view of one: CuPy is not imported where types are checked."""
CupyObject: TypeAlias = Any
"""Another object of CuPy's: a kernel that is compiled, or a graph that was recorded."""
DType: TypeAlias = np.dtype[Any]
"""A dtype of NumPy's, whichever it is."""
