"""The manifests of docs/launch.md: fields that Kubernetes knows, and commands that ours do."""

from pathlib import Path

import jsonschema
import pytest
import yaml

from sweeps import work

FOLDER = Path(__file__).parents[2] / "docs/launch"


def fields(*required, **known):
    """An object with these fields and no others."""
    return {
        **{"type": "object", "properties": known, "required": list(required)},
        "additionalProperties": False,
    }


TEXT, NUMBER = {"type": "string"}, {"type": "integer", "minimum": 0}
TEXTS = {"type": "object", "additionalProperties": TEXT}  # numbers must be quoted in YAML


def many(kind):
    return {"type": "array", "items": kind, "minItems": 1}


# What we use of https://kubernetes.io/docs/reference/kubernetes-api/ (batch/v1, core/v1).
ENV = fields(
    *("name",),
    name=TEXT,
    value=TEXT,
    valueFrom=fields("fieldRef", fieldRef=fields("fieldPath", fieldPath=TEXT)),
)
CONTAINER = fields(
    *("name", "image", "command"),
    **{"name": TEXT, "image": TEXT, "command": many(TEXT), "env": many(ENV)},
    resources=fields("limits", limits=TEXTS),
    volumeMounts=many(fields("name", "mountPath", name=TEXT, mountPath=TEXT)),
)
POD = fields(
    *("restartPolicy", "containers"),
    restartPolicy={"enum": ["Never", "OnFailure"]},
    containers=many(CONTAINER),
    volumes=many(fields("name", name=TEXT, emptyDir=fields())),
    nodeSelector=TEXTS,
    serviceAccountName=TEXT,
    terminationGracePeriodSeconds=NUMBER,
)
RULE = fields(
    *("action",),
    action={"enum": ["Ignore", "FailJob", "FailIndex", "Count"]},
    onPodConditions=many(fields("type", type=TEXT, status=TEXT)),
    onExitCodes=fields(
        "operator", "values", operator={"enum": ["In", "NotIn"]}, values=many(NUMBER)
    ),
)
JOB = fields(
    *("template",),
    **dict.fromkeys(("completions", "parallelism", "backoffLimit"), NUMBER),
    backoffLimitPerIndex=NUMBER,
    completionMode={"enum": ["Indexed", "NonIndexed"]},
    podFailurePolicy=fields("rules", rules=many(RULE)),
    template=fields("spec", spec=POD, metadata=fields(labels=TEXTS)),
)
# And of https://jobset.sigs.k8s.io/docs/reference/jobset.v1alpha2/
JOBSET = fields(
    *("replicatedJobs",),
    failurePolicy=fields(
        maxRestarts=NUMBER, restartStrategy={"enum": ["Recreate", "BlockingRecreate"]}
    ),
    replicatedJobs=many(
        fields("name", "template", name=TEXT, replicas=NUMBER, template=fields("spec", spec=JOB))
    ),
)
KINDS = {"job": ("batch/v1", "Job", JOB), "jobset": ("jobset.x-k8s.io/v1alpha2", "JobSet", JOBSET)}


@pytest.mark.parametrize("name", KINDS)
def test_manifests_are_valid_and_start_workers(name):
    version, kind, spec = KINDS[name]
    manifest = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    about = fields("name", name=TEXT, annotations=TEXTS)
    whole = {"apiVersion": {"const": version}, "kind": {"const": kind}, "metadata": about}
    jsonschema.validate(manifest, fields(*whole, "spec", **whole, spec=spec))
    job = manifest["spec"]
    if name == "jobset":
        job = job["replicatedJobs"][0]["template"]["spec"]
        assert job["completions"] == job["parallelism"]  # all hosts of a slice or none
    (container,) = job["template"]["spec"]["containers"]
    python, module, command, *words = container["command"]
    assert [python, module, command] == ["python", "-m", "sweeps.work"]
    arguments = work.parser().parse_args(words)
    assert arguments.sharded == (name == "jobset")
    mounted = {mount["name"] for mount in container["volumeMounts"]}
    assert mounted == {volume["name"] for volume in job["template"]["spec"]["volumes"]}
