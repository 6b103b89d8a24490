"""What a process of a cluster says of itself before a run.

This file travels as text and is run by processes that may have another Python or no dist_dot at all (see
`dist_dot.jobs.preflight`): it uses the standard library until it has looked what else is there, defines plain
functions, and returns plain values.
"""

import platform
import socket
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("dask", "distributed", "numpy", "numba", "scipy")


def facts(files: list[str]) -> dict[str, Any]:
    """Return versions, the libraries of the linear algebra, the kind of CPU, and what opening each file came to."""
    found: dict[str, Any] = {"python": platform.python_version()}
    for name in PACKAGES:
        found[name] = _version(name)
    found["dist_dot"], found["code"], found["missing"] = _package()
    found["blas"], found["cpu"] = _of(_blas), _of(_cpu)
    found["files"] = {file: _size(file) for file in files}
    return found


def memory() -> dict[str, Any]:
    """Return the machine's name, the bytes that are free on it, and those that this process takes."""
    import psutil

    return {
        "host": socket.gethostname(),
        "free": psutil.virtual_memory().available,
        "taken": psutil.Process().memory_info().rss,
    }


def gpu() -> dict[str, Any]:
    """Return the machine's name and the GPU that this process uses: its id, its name, its free bytes; or why none.

    It asks dist_dot, which `facts` has found.
    """
    from dist_dot.rows import settle

    missing = settle.unusable()
    card, name, free = ("", "", 0) if missing else (*settle.card(), settle.free_memory())
    return {"host": socket.gethostname(), "card": card, "name": name, "free": free, "missing": missing}


def _version(name: str) -> "str | None":
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _package() -> "tuple[str | None, str | None, str | None]":
    """Return the version of dist_dot, a checksum of its code, and why it cannot be imported."""
    try:
        import dist_dot
    except Exception as error:  # whatever its import meets, it is not there
        return None, None, f"{type(error).__name__}: {error}"
    code = sha256()
    root = Path(dist_dot.__file__ or "").parent
    for path in sorted(root.rglob("*.py")):
        code.update(str(path.relative_to(root)).encode() + path.read_bytes())
    return str(getattr(dist_dot, "__version__", None)), code.hexdigest()[:12], None


def _of(fact: Any) -> "str | None":
    try:
        return str(fact())
    except Exception:  # a package that is not there is named by its version
        return None


def _blas() -> str:
    """Return NumPy's and SciPy's library, with the kind of CPU that it has chosen its kernels for."""
    import numpy  # noqa: F401
    import scipy.linalg  # noqa: F401
    from threadpoolctl import threadpool_info

    libraries = [each for each in threadpool_info() if each["user_api"] == "blas"]
    names = {f"{each['internal_api']} {each['version']} {each.get('architecture', '')}".strip() for each in libraries}
    return " + ".join(sorted(names))


def _cpu() -> str:
    """Return the CPU that numba compiles for."""
    from llvmlite.binding import get_host_cpu_name

    return str(get_host_cpu_name())


def _size(file: str) -> "int | str":
    """Return the bytes of a file, or what went wrong."""
    try:
        import fsspec

        with fsspec.open(file) as handle:
            return int(handle.seek(0, 2))
    except Exception as error:  # of any file system: what it says is for the reader
        return f"{type(error).__name__}: {' '.join(str(error).split())}"
