"""What is made on Kubernetes, held against the schemas of Kubernetes and of the Dask operator. No cluster."""

import json
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from dask.utils import parse_bytes
from dist_dot_cluster.errors import KubernetesError
from dist_dot_cluster.manifests import (
    Pods,
    Volume,
    dask_cluster,
    network_policy,
    owned_by,
    pods_of,
    reader_pod,
    run_name,
)
from dist_dot_cluster.submit import Submission

PODS = Pods("registry.example/dist-dot:0.1.0", volumes=(Volume("data", "/data"),))
EVERYTHING = Pods(
    "registry.example/dist-dot:0.1.0",
    workers=3,
    cpus=2.5,
    memory="8Gi",
    gpus_per_worker=1,
    volumes=(Volume("data", "/data"), Volume("runs", "/runs")),
    env_from=("store-credentials",),
    pull_secrets=("registry",),
)
JOB_FILE = "[data]\nsource = '/data/flights.parquet'\n"
VERSIONS = [each for each in kubernetes_validate.utils.all_versions() if tuple(map(int, each.split("."))) >= (1, 28)]


def submission(pods=PODS, **options):
    return Submission(**{"name": "flights-1", "namespace": "lab", "pods": pods, "job_file": JOB_FILE,
                         "store": "/data/flights-1"} | options)  # fmt: skip


def everything():
    owner = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "flights-1", "uid": "1-2-3"}}
    for pods in (PODS, EVERYTHING):
        account, job_file, job, *others = submission(pods, settings=("solver.tol=0",)).manifests()
        yield from (account, job_file, job)
        yield from (owned_by(owner, other) for other in (*others, reader_pod("flights-1", pods)))


def dask_schema(kind):
    """The schema of the operator's own CRD, which ignores fields that it does not name: none is to be ignored here."""
    folder = Path(find_spec("dask_kubernetes").origin).parent / "operator/deployment/helm/dask-kubernetes-operator/crds"
    crd = yaml.safe_load((folder / f"{kind.lower()}.yaml").read_text())
    assert crd["spec"]["names"]["kind"] == kind
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    return _closed(schema | {"properties": {key: schema["properties"].get(key, {}) for key in KEYS}})


KEYS = ("apiVersion", "kind", "metadata", "spec", "status")


def _closed(schema):
    """Forbid properties that are not named, and add Kubernetes' own int-or-string."""
    if not isinstance(schema, dict):
        return schema
    schema = {key: _closed(value) if key not in ("properties",) else value for key, value in schema.items()}
    if schema.pop("x-kubernetes-int-or-string", False):
        schema.pop("type", None)
    if properties := schema.get("properties"):
        schema["properties"] = {name: _closed(value) for name, value in properties.items()}
        if not schema.get("x-kubernetes-preserve-unknown-fields"):
            schema.setdefault("additionalProperties", False)
    return schema


@pytest.mark.parametrize("version", VERSIONS)
def test_kubernetes_knows_every_field(version):
    kinds = set()
    for manifest in everything():
        if manifest["kind"] != "DaskCluster":
            kinds.add(manifest["kind"])
            kubernetes_validate.validate(manifest, version, strict=True)
    assert kinds == {"Job", "ConfigMap", "NetworkPolicy", "ServiceAccount", "Role", "RoleBinding", "Pod"}


def test_the_newest_kubernetes_is_among_them():
    assert VERSIONS[0] == "1.28.0" and VERSIONS[-1] == kubernetes_validate.latest_version()


def test_the_operator_knows_every_field():
    validator = jsonschema.Draft202012Validator(dask_schema("DaskCluster"))
    found = [manifest for manifest in everything() if manifest["kind"] == "DaskCluster"]
    assert len(found) == 2
    for manifest in found:
        validator.validate(manifest)
    wrong = dask_cluster("flights-1", PODS)
    wrong["spec"]["worker"]["spec"]["containers"][0]["comand"] = ["dask"]
    with pytest.raises(jsonschema.ValidationError, match="'comand' was unexpected"):
        validator.validate(wrong)


def pod_specs(pods):
    _, _, job, *others = submission(pods).manifests()
    cluster = others[-1]["spec"]
    return {
        "runner": job["spec"]["template"]["spec"],
        "scheduler": cluster["scheduler"]["spec"],
        "worker": cluster["worker"]["spec"],
        "reader": reader_pod("flights-1", pods)["spec"],
    }


@pytest.mark.parametrize("who", ["runner", "scheduler", "worker", "reader"])
def test_every_pod_has_limits_and_no_rights(who):
    spec = pod_specs(EVERYTHING)[who]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] and spec["securityContext"]["runAsUser"] > 0
    assert not container["securityContext"]["allowPrivilegeEscalation"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert spec["automountServiceAccountToken"] is (who == "runner")
    for amounts in (container["resources"]["requests"], container["resources"]["limits"]):
        assert {"cpu", "memory"} <= set(amounts)
    assert ("nvidia.com/gpu" in container["resources"]["limits"]) is (who == "worker")
    claims = [each["persistentVolumeClaim"]["claimName"] for each in spec["volumes"] if "persistentVolumeClaim" in each]
    assert claims == ["data", "runs"]
    assert [each["mountPath"] for each in container["volumeMounts"]][1:3] == ["/data", "/runs"]
    assert container["envFrom"] == [{"secretRef": {"name": "store-credentials"}}]
    assert spec["imagePullSecrets"] == [{"name": "registry"}]


def test_a_worker_has_what_was_asked_for():
    cluster = dask_cluster("flights-1", EVERYTHING)
    (worker,) = cluster["spec"]["worker"]["spec"]["containers"]
    amounts = {"cpu": "2.5", "memory": "8Gi", "nvidia.com/gpu": "1"}
    assert worker["resources"] == {"requests": amounts, "limits": amounts}
    assert cluster["spec"]["worker"]["replicas"] == 3
    arguments = " ".join(worker["args"])
    assert "--nthreads 2 --memory-limit 8Gi" in arguments and "--no-nanny" in arguments
    assert {"name": "OMP_NUM_THREADS", "value": "1"} in worker["env"]  # a nanny would set it, and the bits need it
    for unit, factor in {"k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}.items():
        assert parse_bytes(f"8{unit}") == 8 * factor  # Dask reads the limit as Kubernetes does


def test_the_policy_admits_the_cluster_and_the_operator_alone():
    spec = network_policy("flights-1", PODS)["spec"]
    own = {"podSelector": {"matchLabels": {"app.kubernetes.io/instance": "flights-1"}}}
    assert spec["podSelector"] == own["podSelector"] and spec["policyTypes"] == ["Ingress"]
    (rule,) = spec["ingress"]
    names = [each["namespaceSelector"]["matchLabels"] for each in rule["from"] if "namespaceSelector" in each]
    assert rule["from"][0] == own and names == [{"kubernetes.io/metadata.name": "dask-operator"}]


def test_the_runner_may_touch_its_own_run_alone():
    (role,) = (each for each in submission().manifests() if each["kind"] == "Role")
    assert all(rule["resourceNames"] == ["flights-1"] for rule in role["rules"])
    assert {(*rule["resources"], *rule["verbs"]) for rule in role["rules"]} == {
        ("jobs", "get", "patch"),
        ("daskclusters", "delete"),
    }


def test_a_run_is_retried_so_often_and_goes_on_where_it_was():
    job = submission(retries=7, settings=("solver.tol=0", "model.alpha=2")).manifests()[2]
    assert job["spec"]["backoffLimit"] == 7 and job["spec"]["template"]["spec"]["restartPolicy"] == "Never"
    arguments = " ".join(job["spec"]["template"]["spec"]["containers"][0]["args"])
    assert "--namespace lab --scheduler tcp://flights-1-scheduler.lab.svc:8786 --workers 2" in arguments
    assert arguments.endswith(
        "-- dist-dot train /job/job.toml --cluster tcp://flights-1-scheduler.lab.svc:8786 --resume auto "
        "--out /data/flights-1 --set solver.tol=0 --set model.alpha=2"
    )


def test_a_store_that_is_a_url_gets_checkpoints_at_once_and_the_folder_at_the_end():
    job = submission(Pods("image"), store="s3://bucket/run").manifests()[2]
    arguments = " ".join(job["spec"]["template"]["spec"]["containers"][0]["args"])
    assert "--copy /tmp/run s3://bucket/run --" in arguments and "--out /tmp/run" in arguments
    assert arguments.endswith("--set output.checkpoints=s3://bucket/run/checkpoint")


def test_the_options_come_back_from_the_job():
    job = submission(EVERYTHING).manifests()[2]
    assert pods_of(json.loads(json.dumps(job))) == EVERYTHING


@pytest.mark.parametrize("stem", ["flights", "Flights_2013 (all)", "2013", "x" * 80, "é"])
def test_names_are_unique_words_that_the_operator_takes(stem):
    from dask_kubernetes.operator.validation import validate_cluster_name

    names = {run_name(stem) for _ in range(20)}
    assert len(names) == 20
    for name in names:
        validate_cluster_name(name)
        assert name[0].isalpha()  # a Service may not begin with a digit


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"image": ""}, "no image"),
        ({"workers": 0}, "0 workers"),
        ({"cpus": 0.0}, "cpus"),
        ({"gpus_per_worker": 2}, "more workers for more GPUs"),
        ({"memory": "8 GB"}, "memory '8 GB': write a number of bytes such as 8Gi"),
    ],
)
def test_what_kubernetes_would_refuse_is_refused_here(change, words):
    with pytest.raises(KubernetesError, match=words):
        replace(PODS, **change)


@pytest.mark.parametrize(
    "text", [None, "", "5", "[]", "{}", '{"volumes": 5}', '{"volumes": [{"a": 1}]}', "[" * 100_000]
)
def test_a_job_that_somebody_else_has_made_is_named(text):
    notes = {} if text is None else {"dist-dot/pods": text}
    with pytest.raises(KubernetesError, match="Job strange was made by another version"):
        pods_of({"metadata": {"name": "strange", "annotations": notes}})


@pytest.mark.parametrize("text", ["data", "data:", ":/data", "data:data", "data:/"])
def test_a_volume_is_a_claim_and_a_path(text):
    with pytest.raises(KubernetesError, match="write CLAIM:/PATH"):
        Volume.parse(text)


def test_what_would_be_lost_or_read_by_everyone_is_refused():
    with pytest.raises(KubernetesError, match="goes with them: give --volume"):
        submission(store="/elsewhere/run")
    with pytest.raises(KubernetesError, match="use a Secret and --env-from"):
        submission(job_file="source = 's3://key:secret@host/flights.parquet'")
    with pytest.raises(KubernetesError, match="use a Secret"):
        submission(settings=("data.source=https://me:word@host/x.parquet",))
