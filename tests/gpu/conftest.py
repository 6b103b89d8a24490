"""What needs a GPU and CuPy: `make test-gpu`. An error here says which of the two is missing."""

from pathlib import Path

import cupy
import pytest

cupy.cuda.runtime.getDeviceCount()


def pytest_collection_modifyitems(items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(autouse=True)
def give_back():
    yield
    cupy.get_default_memory_pool().free_all_blocks()
