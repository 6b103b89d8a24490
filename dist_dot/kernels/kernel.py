"""What a kernel is."""

from collections.abc import Callable

from dist_dot.rows.arrays import Parameters
from dist_dot.rows.block import Block
from dist_dot.typing import Array

Kernel = Callable[[Block, Parameters], Array]
"""(block, parameters) -> sums over its rows, one flat float64 array of its library. See `dist_dot.kernels.passes`.

They are added up in the memory of the first, so it returns new memory each time. Where two results do not simply add
up, it has a method `merge`: (left, right) -> the result for the rows of both. Where it can answer for all blocks on a
GPU at once, it has a method `launch`: (rows, blocks, parameters of the host) -> the sums (blocks, width) on the GPU, or
those of each block in order, or None where it cannot after all; rows is a `dist_dot.kernels.device.DeviceRows`. `reads`
is "y" where it reads y alone, and "X" where its sums are finite only if all of X is.
"""
