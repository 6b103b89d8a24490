"""What is raised on a worker or beside the scheduler arrives in the client as what it was."""

import copyreg
import pickle

import dist_dot_cluster.errors
import pytest
import tblib.pickling_support
from distributed.protocol import pickle as dask_pickle

from dist_dot import errors
from dist_dot.rounds.worker import as_sent

DOCUMENTED = {
    errors.DistDotError: (Exception,),
    errors.InputError: (errors.DistDotError, ValueError),
    errors.DataError: (errors.InputError,),
    errors.DeviceError: (errors.InputError,),
    errors.JobError: (errors.InputError,),
    errors.SolverError: (errors.DistDotError, ValueError),
    errors.WriteError: (errors.DistDotError, OSError),
    errors.ClusterError: (errors.DistDotError, RuntimeError),
    errors.DeadlineError: (errors.ClusterError, TimeoutError),
    errors.RunCancelled: (errors.ClusterError,),
    errors.RunDetached: (errors.ClusterError,),
    dist_dot_cluster.errors.ClusterWordError: (ValueError,),
    dist_dot_cluster.errors.KubernetesError: (dist_dot_cluster.errors.ClusterWordError,),
    dist_dot_cluster.errors.PodsError: (dist_dot_cluster.errors.KubernetesError,),
}


@pytest.fixture(scope="module", autouse=True, params=["dist_dot first", "Dask first"])
def imported(request):
    """Dask has tblib pickle the exceptions that exist when it is imported: with traceback and cause, and in its way."""
    before = dict(copyreg.dispatch_table)
    if request.param == "dist_dot first":
        tblib.pickling_support.install(*DOCUMENTED)
    yield
    copyreg.dispatch_table.clear()
    copyreg.dispatch_table.update(before)


def raised(kind):
    """Return an exception as it is caught: with a traceback and a cause."""
    try:
        try:
            raise OSError(2, "no such file")
        except OSError as cause:
            raise kind("waited 4 s: 3 of 20 blocks are on no worker") from cause
    except kind as error:
        return error


def by_pickle(protocol):
    return lambda error: pickle.loads(pickle.dumps(error, protocol))


WAYS = {f"pickle {protocol}": by_pickle(protocol) for protocol in range(pickle.HIGHEST_PROTOCOL + 1)}
WAYS["Dask"] = lambda error: dask_pickle.loads(dask_pickle.dumps(error))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", DOCUMENTED)
def test_an_exception_survives_the_way_to_the_client(kind, way):
    for error in (kind("waited 4 s: 3 of 20 blocks are on no worker"), raised(kind)):
        found = WAYS[way](error)
        assert type(found) is kind and isinstance(found, DOCUMENTED[kind])
        assert str(found) == "waited 4 s: 3 of 20 blocks are on no worker"
        assert found.args == ("waited 4 s: 3 of 20 blocks are on no worker",)


def test_no_public_exception_is_missing_above():
    for module in (errors, dist_dot_cluster.errors):
        public = {each for each in vars(module).values() if isinstance(each, type) and issubclass(each, Exception)}
        assert {each for each in public if each.__module__ == module.__name__} <= DOCUMENTED.keys()


class Told(Exception):
    """It takes two arguments and keeps one, so that pickle cannot make it again."""

    def __init__(self, file, row):
        super().__init__(f"{file} has a hole in row {row}")


def test_an_exception_that_does_not_survive_arrives_in_words():
    kept = errors.DataError("X is nan in row 7")
    assert as_sent(kept) is kept
    found = dask_pickle.loads(dask_pickle.dumps(as_sent(Told("flights", 7))))
    assert type(found) is errors.ClusterError and str(found) == "Told: flights has a hole in row 7"
