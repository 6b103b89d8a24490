"""The few type names that every layer shares."""

from typing import Any, TypeAlias

from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]
"""A NumPy array; on a GPU worker the blocks hold arrays of another library with the same methods."""
