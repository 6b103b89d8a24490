"""The shape of the package: what it exports, and who imports whom."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import dist_dot

ROOT = Path(__file__).parent.parent
LAYERS = [
    "typing",
    "errors",
    "checks",
    "scalar_loss",
    "losses",
    "rows",
    "kernels",
    "rounds",
    "products",
    "reference",
    "problem",
    "baseline",
    "objective",
    "solvers",
    "training",
    "linear_model",
    "jobs",
    "__main__",
]
DASK = {f"rounds/{name}.py" for name in ("layout", "cluster", "remote", "service", "asking", "run", "worker")}
DASK |= {"rows/inputs.py", "kernels/device/serialize.py", "products/search.py"}


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} if node.module != "dist_dot" else {f"dist_dot.{a.name}" for a in node.names}
    return found


def test_imports_go_one_way():
    seen = 0
    for path in (ROOT / "dist_dot").rglob("*.py"):
        relative = path.relative_to(ROOT / "dist_dot")
        layer = relative.parts[0].removesuffix(".py")
        for name in imports(path):
            if name.startswith("dist_dot.") and layer != "__init__":
                other = name.split(".")[1]
                if other == "__version__":
                    continue
                seen += 1
                assert LAYERS.index(other) <= LAYERS.index(layer), f"{relative} imports {name}"
            if name.split(".")[0] in ("dask", "distributed"):
                assert str(relative) in DASK or layer == "jobs", f"{relative} imports {name}"
            if name.split(".")[0] == "dist_dot_cluster":
                assert layer == "jobs", f"{relative} imports {name}"
    assert seen > 50


def test_cluster_knows_nothing_of_training():
    for path in (ROOT / "cluster").rglob("*.py"):
        assert not any(name.split(".")[0] == "dist_dot" for name in imports(path)), path


def test_all_is_what_is_exported():
    assert len(dist_dot.__all__) <= 25
    assert dist_dot.__all__ == sorted(dist_dot.__all__)
    for name in dist_dot.__all__:
        assert getattr(dist_dot, name) is not None
    public = {name for name in vars(dist_dot) if not name.startswith("_")}
    modules = {
        "typing",
        "baseline",
        "checks",
        "rows",
        "kernels",
        "rounds",
        "objective",
        "problem",
        "products",
        "reference",
        "scalar_loss",
        "training",
        "linear_model",
        "jobs",
        "import_module",
        "Any",
        "TYPE_CHECKING",
    }
    assert public - modules <= set(dist_dot.__all__)


def test_import_is_light():
    code = "import sys, dist_dot; print([m for m in ('numba', 'dask', 'distributed', 'sklearn') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_first_steps():
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "first_steps.py"], capture_output=True, text=True, check=True, timeout=120
    )
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["iteration", "0", "loss", "110"]
    assert [line.split()[1] for line in lines[:-1]] == [str(i) for i in range(0, 1001, 100)]
    assert abs(float(lines[-1].split()[2]) - 2.0) <= 1e-12


def test_the_architecture_page_names_every_file():
    text = (ROOT / "docs" / "architecture.md").read_text()
    tree = text[: text.index("## Design")]
    files = [*ROOT.glob("dist_dot/*.py"), *ROOT.glob("dist_dot/*/*.py"), *ROOT.glob("cluster/*/*.py")]
    missing = [str(path) for path in files if f" {path.name} " not in tree and not is_plain(path)]
    assert not missing and len(files) > 80


def is_plain(path: Path) -> bool:
    return path.name in ("__init__.py", "typing.py")


def test_links_between_the_documents_lead_somewhere():
    seen = 0
    for page in (ROOT / "README.md", *ROOT.glob("docs/*.md")):
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
            if not link.startswith("https://"):
                seen += 1
                assert (page.parent / link).exists(), f"{page.name}: {link}"
    assert seen > 10
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
