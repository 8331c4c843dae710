"""KubeRay manifests of experiment files, checked against the keys that KubeRay and Kubernetes allow."""

import yaml
from jsonschema import Draft202012Validator

from harness.cluster import manifests
from harness.cluster.manifests import Options
from harness.experiment.load import load


def strict(required=(), **properties):
    return {
        "type": "object",
        "properties": properties,
        "required": list(required),
        "additionalProperties": False,
    }


TEXT, WHOLE, NUMBER, FLAG = ({"type": kind} for kind in ("string", "integer", "number", "boolean"))
TEXTS = {"type": "object", "additionalProperties": TEXT}
ANY = {"type": "object"}


def items(schema):
    return {"type": "array", "items": schema, "minItems": 1}


# Kubernetes' own types, as far as they are used here.
QUANTITIES = {"type": "object", "additionalProperties": {"type": "string", "pattern": r"^[0-9]+(Gi)?$"}}
KEY = strict(["name", "key"], name=TEXT, key=TEXT, optional=FLAG)
ENV = strict(["name"], name=TEXT, value=TEXT, valueFrom=strict(secretKeyRef=KEY, configMapKeyRef=KEY))
CONTAINER = strict(
    ["name"],
    name=TEXT,
    image=TEXT,
    env=items(ENV),
    resources=strict(limits=QUANTITIES, requests=QUANTITIES),
    securityContext=strict(allowPrivilegeEscalation=FLAG, capabilities=strict(drop=items(TEXT), add=items(TEXT))),
    volumeMounts=items(strict(["name", "mountPath"], name=TEXT, mountPath=TEXT, readOnly=FLAG, subPath=TEXT)),
)
VOLUME = strict(
    ["name"],
    name=TEXT,
    configMap=strict(name=TEXT),
    persistentVolumeClaim=strict(["claimName"], claimName=TEXT, readOnly=FLAG),
)
POD = strict(
    metadata=ANY,
    spec=strict(["containers"], automountServiceAccountToken=FLAG, containers=items(CONTAINER), volumes=items(VOLUME)),
)
NAMED = strict(["name"], name={"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]{0,45}[a-z0-9])?$"}, labels=TEXTS)
# The keys of RayJobSpec, RayClusterSpec and the groups in KubeRay's API reference (ray.io/v1, release 1.5.1).
CLUSTER = strict(
    ["headGroupSpec"],
    suspend=FLAG,
    managedBy=TEXT,
    autoscalerOptions=ANY,
    authOptions=strict(mode={"enum": ["disabled", "token"]}),
    headServiceAnnotations=TEXTS,
    enableInTreeAutoscaling=FLAG,
    gcsFaultToleranceOptions=ANY,
    rayVersion=TEXT,
    headGroupSpec=strict(
        ["template"],
        template=POD,
        headService=ANY,
        enableIngress=FLAG,
        rayStartParams=TEXTS,
        serviceType={"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    ),
    workerGroupSpecs=items(
        strict(
            ["groupName", "maxReplicas", "minReplicas", "template"],
            groupName=TEXT,
            suspend=FLAG,
            replicas=WHOLE,
            minReplicas=WHOLE,
            maxReplicas=WHOLE,
            idleTimeoutSeconds=WHOLE,
            rayStartParams=TEXTS,
            template=POD,
            scaleStrategy=ANY,
            numOfHosts=WHOLE,
        )
    ),
)
RAY_JOB = strict(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=NAMED,
    spec=strict(
        activeDeadlineSeconds=WHOLE,
        backoffLimit=WHOLE,
        rayClusterSpec=CLUSTER,
        submitterPodTemplate=POD,
        metadata=TEXTS,
        clusterSelector=TEXTS,
        submitterConfig=strict(backoffLimit=WHOLE),
        managedBy=TEXT,
        deletionStrategy=ANY,
        entrypoint=TEXT,
        runtimeEnvYAML=TEXT,
        jobId=TEXT,
        submissionMode={"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
        entrypointResources=TEXT,
        entrypointNumCpus=NUMBER,
        entrypointNumGpus=NUMBER,
        ttlSecondsAfterFinished=WHOLE,
        shutdownAfterJobFinishes=FLAG,
        suspend=FLAG,
    ),
)
CONFIG_MAP = strict(
    ["metadata"], apiVersion={"const": "v1"}, kind={"const": "ConfigMap"}, metadata=NAMED, data=TEXTS, immutable=FLAG
)


def loaded(path, *overrides):
    return load(path, overrides, here=False)


def kuberay(path, *overrides, **options):
    """The two documents, checked."""
    given = Options(overrides, **{"image": "registry.example/sstkd-bench:1", **options})
    text = manifests.kuberay(path, loaded(path, *overrides), given)
    config, job = yaml.safe_load_all(text)
    for schema, document in ((CONFIG_MAP, config), (RAY_JOB, job)):
        Draft202012Validator.check_schema(schema)
        Draft202012Validator(schema).validate(document)
    return text, config, job
