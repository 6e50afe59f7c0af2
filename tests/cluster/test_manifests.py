"""What lies in cluster/ is valid, by the tools that such files are checked with; each check is shown to fail.

Skipped where a tool cannot be had; Ray's schemas lie in ../shared/kuberay or where AGESCALE_KUBERAY says.
"""

from __future__ import annotations

import copy
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
KUBERAY = CLUSTER / "kuberay"
CRDS = Path(os.environ.get("AGESCALE_KUBERAY", ROOT.parent / "shared" / "kuberay"))
OVERLAY = KUBERAY / "overlays" / "example"
KUBERNETES = "1.32"  # the oldest that still gets fixes, about
Object = dict[str, Any]


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    """A tool's answer, from PATH or from beside the Python that runs the tests."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    if not (tool := shutil.which(command[0], path=path)):
        pytest.skip(f"{command[0]} is not installed")
    arguments = [tool, *map(str, command[1:])]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False, **options)


@functools.cache
def _build(folder: Path) -> str:
    built = run("kubectl", "kustomize", folder)
    assert built.returncode == 0, built.stderr
    return built.stdout


def build(folder: Path) -> list[Object]:
    """All objects of a kustomization."""
    return list(yaml.load_all(_build(folder), yaml.CSafeLoader))


def only(resources: list[Object], kind: str, name: str = "") -> Object:
    """The first of a kind, or the one of that name."""
    return next(each for each in resources if each["kind"] == kind and name in ("", each["metadata"]["name"]))


@pytest.fixture(scope="module")
def kueue_overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example with Kueue, as its comments say."""
    folder = tmp_path_factory.mktemp("site") / "kuberay"
    shutil.copytree(KUBERAY, folder)
    for file in folder.glob("overlays/example/*/kustomization.yaml"):
        file.write_text(file.read_text().replace("[../../../fill]", "[../../../kueue, ../../../fill]"))
    return folder / "overlays" / "example"


@functools.cache
def crd_validator(kind: str) -> Any:
    """The schema of one of Ray's kinds, in which an unknown field is an error."""
    from jsonschema import Draft202012Validator

    file = CRDS / f"ray.io_{kind.lower()}s.yaml"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    versions = yaml.load(file.read_text(), yaml.CSafeLoader)["spec"]["versions"]
    schema = next(version["schema"]["openAPIV3Schema"] for version in versions if version["name"] == "v1")
    return Draft202012Validator(_closed(schema))


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {key: _closed(value) for key, value in schema.items()}
    named = schema.get("properties")
    if isinstance(named, dict) and "type" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        closed["additionalProperties"] = schema.get("additionalProperties", False)
    return closed


def violations(resource: Object) -> list[str]:
    """What Kubernetes' or Ray's schema has against an object; unknown fields count. PodMonitors have none here."""
    if resource["apiVersion"].startswith("ray.io/"):
        bare = {**resource, "metadata": {}}  # whose fields the schema leaves to Kubernetes
        return [f"{error.json_path}: {error.message}" for error in crd_validator(resource["kind"]).iter_errors(bare)]
    if resource["kind"] == "PodMonitor":
        return []
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    try:
        kubernetes_validate.validate(resource, KUBERNETES, strict=True)
    except kubernetes_validate.ValidationError as error:
        return [error.message]
    return []


def clusters(resource: Object) -> Iterator[Object]:
    """The specification of the RayCluster in an object."""
    spec = resource.get("spec", {})
    if resource["kind"] == "RayCluster":
        yield spec
    elif resource["kind"] == "RayJob":
        yield spec["rayClusterSpec"]
    elif resource["kind"] == "RayCronJob":
        yield spec["jobTemplate"]["rayClusterSpec"]


def groups(cluster: Object) -> list[Object]:
    return [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]


def refusals(resource: Object) -> list[str]:
    """What KubeRay's operator refuses although the schema permits it (its validation.go), and what we want besides."""
    if not resource["apiVersion"].startswith("ray.io/"):
        return []
    found = []
    name, kind = resource["metadata"]["name"], resource["kind"]
    longest = 36 if kind == "RayCronJob" else 47
    if len(name) > longest or not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        found.append(f"name {name}: a DNS label of at most {longest} letters")
    for cluster in clusters(resource):
        found += _cluster_refusals(cluster)
    job = resource["spec"]["jobTemplate"] if kind == "RayCronJob" else resource["spec"]
    return found + (_job_refusals(job) if kind != "RayCluster" else [])


def _cluster_refusals(cluster: Object) -> list[str]:
    found = []
    is_scaled = cluster.get("enableInTreeAutoscaling", False)
    version = cluster.get("autoscalerOptions", {}).get("version")
    if cluster.get("authOptions", {}).get("mode") != "token" or "rayVersion" not in cluster:
        found.append("token authentication, which wants rayVersion")
    for group in groups(cluster):
        pod, start = group["template"]["spec"], group["rayStartParams"]
        if "labels" in start:
            found.append("rayStartParams.labels: use labels")
        if group.get("resources") and start.keys() & {"num-cpus", "num-gpus", "memory", "resources"}:
            found.append("resources both in rayStartParams and in resources")
        if is_scaled and version == "v2" and pod.get("restartPolicy", "Never") != "Never":
            found.append("autoscaler v2: restartPolicy Never, or none")
        for container in pod["containers"]:
            names = {each["name"] for each in container.get("env", [])}
            if names & {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "REDIS_USERNAME", "RAY_enable_autoscaler_v2"}:
                found.append("an environment variable that has a field")
            if container["resources"].get("requests") != container["resources"].get("limits"):
                found.append("requests = limits, else Ray counts what is not there")
    if cluster["headGroupSpec"]["rayStartParams"].get("num-cpus") != "0":
        found.append('head: num-cpus "0"')
    for group in cluster["workerGroupSpecs"]:
        if not group["minReplicas"] <= group["maxReplicas"]:
            found.append(f"{group['groupName']}: minReplicas over maxReplicas")
        if group.get("suspend"):
            found.append("a suspended group with the autoscaler")
    return found


def _job_refusals(job: Object) -> list[str]:
    found = []
    rules = job.get("deletionStrategy", {}).get("deletionRules", [])
    ends_cluster = job.get("shutdownAfterJobFinishes", False)
    if rules and ends_cluster:
        found.append("deletionRules exclude shutdownAfterJobFinishes")
    if job.get("ttlSecondsAfterFinished", 0) and not ends_cluster:
        found.append("ttlSecondsAfterFinished wants shutdownAfterJobFinishes")
    if job.get("suspend") and not ends_cluster:
        found.append("suspend wants shutdownAfterJobFinishes")
    if job.get("clusterSelector") and job.get("backoffLimit"):
        found.append("backoffLimit excludes clusterSelector")
    if any(rule["policy"] == "DeleteWorkers" for rule in rules):
        found.append("DeleteWorkers is refused with the autoscaler")
    if len({(str(rule["condition"].get("jobStatus")), rule["policy"]) for rule in rules}) < len(rules):
        found.append("two rules for the same end")
    if not rules and not ends_cluster:
        found.append("a cluster that stays for ever")
    if job.get("activeDeadlineSeconds", 0) <= 0:
        found.append("activeDeadlineSeconds")
    if json.loads(job.get("entrypointResources", "{}")) != {"driver": 1}:
        found.append("the driver belongs on its own node")
    if job["submitterPodTemplate"]["spec"]["restartPolicy"] not in ("Never", "OnFailure"):
        found.append("submitter: restartPolicy")
    return found


def pods(resource: Object) -> Iterator[Object]:
    """The specifications of all pods that an object makes."""
    for cluster in clusters(resource):
        yield from (group["template"]["spec"] for group in groups(cluster))
    if resource["kind"] in ("RayJob", "RayCronJob"):
        job = resource["spec"]["jobTemplate"] if resource["kind"] == "RayCronJob" else resource["spec"]
        yield job["submitterPodTemplate"]["spec"]
    if resource["kind"] == "CronJob":
        yield resource["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def lapses(pod: Object) -> list[str]:
    """What in a pod is less than locked up."""
    found = []
    account = pod["securityContext"]
    if not account.get("runAsNonRoot") or not account.get("runAsUser"):
        found.append("a numeric user that is not root")
    if account.get("seccompProfile") != {"type": "RuntimeDefault"}:
        found.append("seccompProfile")
    for container in pod["containers"]:
        rights = container.get("securityContext", {})
        if not rights.get("readOnlyRootFilesystem") or rights.get("allowPrivilegeEscalation", True):
            found.append("read-only root file system, no escalation")
        if rights.get("capabilities") != {"drop": ["ALL"]}:
            found.append("capabilities")
        if not re.search(r"@sha256:[0-9a-f]{64}$", container["image"]):
            found.append("the image by its digest")
        for variable in container.get("env", []):
            if "value" in variable and re.search("TOKEN|SECRET|PASSWORD|KEY", variable["name"]):
                found.append(f"{variable['name']} in clear")
    return found


STANDING, JOBS = OVERLAY / "standing", OVERLAY / "jobs"


@pytest.mark.parametrize("part", ["standing", "jobs"])
@pytest.mark.parametrize("site", ["plain", "kueue"])
def test_every_object_fits_its_schema_the_operators_rules_and_a_locked_pod(
    part: str, site: str, request: pytest.FixtureRequest
) -> None:
    overlay: Path = OVERLAY if site == "plain" else request.getfixturevalue("kueue_overlay")
    resources = build(overlay / part)
    for resource in resources:
        name = f"{resource['kind']} {resource['metadata']['name']}"
        assert violations(resource) == [], name
        assert refusals(resource) == [], name
        for pod in pods(resource):
            assert lapses(pod) == [], name
        assert resource["metadata"].get("namespace") == "agescale", name


def test_what_stands_costs_nothing_and_each_job_can_be_chosen() -> None:
    standing = {(each["kind"], each["metadata"]["name"]) for each in build(STANDING)}
    assert {"CronJob", "RayCronJob", "NetworkPolicy", "PodMonitor", "PodDisruptionBudget"} <= {
        kind for kind, _ in standing
    }
    assert not {"RayCluster", "RayJob"} & {kind for kind, _ in standing}
    jobs = {each["metadata"]["labels"]["agescale/job"]: each for each in build(JOBS)}
    assert jobs.keys() == {"catalog", "train", "sweep", "score", "evaluate", "night", "cluster"}
    for name, job in jobs.items():
        assert job["metadata"]["name"] == ("agescale" if name == "cluster" else name)
        assert job["kind"] == ("RayCluster" if name == "cluster" else "RayJob")


def test_the_cluster_of_each_job_is_the_one_that_is_written_with_what_the_site_says() -> None:
    jobs = build(JOBS)
    written = only(jobs, "RayCluster")["spec"]
    assert written["workerGroupSpecs"][1]["maxReplicas"] == 16, "the site's"
    for job in jobs:
        if job["kind"] == "RayJob" and job["metadata"]["name"] != "train":  # whose site asks for GPUs
            assert job["spec"]["rayClusterSpec"] == written
    assert only(build(STANDING), "RayCronJob")["spec"]["jobTemplate"] == only(jobs, "RayJob", "night")["spec"]


def test_a_night_forbids_another_and_gives_up_at_once_on_what_ends_alike() -> None:
    standing = build(STANDING)
    schedule, template, role, binding = (
        only(standing, kind) for kind in ("CronJob", "RayCronJob", "Role", "RoleBinding")
    )
    schedule, template = schedule["spec"], template["spec"]
    assert schedule["concurrencyPolicy"] == "Forbid"
    assert schedule["timeZone"] == "Europe/Berlin"
    job = schedule["jobTemplate"]["spec"]
    assert job["podFailurePolicy"]["rules"][0]["onExitCodes"]["values"] == [2, 3]
    assert job["template"]["spec"]["restartPolicy"] == "Never", "podFailurePolicy wants it"
    assert template["suspend"], "two schedules would be two nights"
    assert template["jobTemplate"]["backoffLimit"] == 0
    account = job["template"]["spec"]["serviceAccountName"]
    assert binding["subjects"][0]["name"] == account == "agescale-nightly"
    assert {verb for rule in role["rules"] for verb in rule["verbs"]} == {"get", "create"}


def test_nobody_but_those_named_reaches_a_port_of_ray() -> None:
    policies = {each["metadata"]["name"]: each["spec"] for each in build(STANDING) if each["kind"] == "NetworkPolicy"}
    among_nodes, dashboard, metrics = policies["ray"]["ingress"]
    assert among_nodes == {"from": [{"podSelector": policies["ray"]["podSelector"]}]}
    assert [port["port"] for port in dashboard["ports"]] == [8265]
    assert [port["port"] for port in metrics["ports"]] == [8080, 44217, 44227]
    for rule in (dashboard, metrics):
        assert all(peer["podSelector"]["matchLabels"] for peer in rule["from"]), "no rule for every pod"
    assert "ingress" not in policies["nobody-calls"]


def test_versions_are_those_of_the_environment() -> None:
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())
    assert only(build(JOBS), "RayCluster")["spec"]["rayVersion"] == pins["ray"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    image = re.search(r"FROM python:(\d+\.\d+)\.", (CLUSTER / "Dockerfile").read_text())
    assert image, "the base image"
    assert project["requires-python"] == f">={image[1]}"


def changed(resource: Object, path: str, value: Any) -> Object:
    """A copy with ``value`` at a dotted path; numbers are places in lists, None takes away."""
    changed = copy.deepcopy(resource)
    *parents, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    inner: Any = changed
    for part in parents:
        inner = inner[part]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return changed


HEAD = "spec.rayClusterSpec.headGroupSpec"
WORKERS = "spec.rayClusterSpec.workerGroupSpecs.1"


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.activeDeadlineSecond", 5),
        ("spec.rayClusterSpec.enableInTreeAutoscalling", True),
        ("spec.rayClusterSpec.authOptions.mode", "tokens"),
        (f"{WORKERS}.minReplicas", "1"),
        (f"{WORKERS}.groupname", "cpu"),
        (f"{WORKERS}.template.spec.containers.0.lifecycle.prestop", {}),
        ("spec.deletionStrategy.deletionRules.0.policy", "DeleteClusters"),
    ],
)
def test_the_schema_sees(path: str, value: Any) -> None:
    job = only(build(JOBS), "RayJob", "train")
    assert violations(job) == []
    assert violations(changed(job, path, value))


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "a" * 48),
        ("metadata.name", "2nd"),
        ("spec.shutdownAfterJobFinishes", True),
        ("spec.ttlSecondsAfterFinished", 60),
        ("spec.suspend", True),
        ("spec.deletionStrategy", {}),
        ("spec.deletionStrategy.deletionRules.0.policy", "DeleteWorkers"),
        ("spec.deletionStrategy.deletionRules.0.condition", {"jobStatus": "FAILED", "ttlSeconds": 1}),
        ("spec.activeDeadlineSeconds", 0),
        ("spec.entrypointResources", "{}"),
        ("spec.rayClusterSpec.rayVersion", None),
        ("spec.rayClusterSpec.authOptions", {}),
        (f"{HEAD}.rayStartParams.num-cpus", "2"),
        (f"{HEAD}.rayStartParams.labels", "a=b"),
        (f"{HEAD}.resources", {"driver": "1"}),
        (f"{HEAD}.template.spec.restartPolicy", "Always"),
        (f"{HEAD}.template.spec.containers.0.resources.limits.memory", "9Gi"),
        (f"{HEAD}.template.spec.containers.0.env.0.name", "RAY_REDIS_ADDRESS"),
        (f"{WORKERS}.template.spec.restartPolicy", "OnFailure"),
        (f"{WORKERS}.minReplicas", 99),
        (f"{WORKERS}.suspend", True),
    ],
)
def test_the_operator_would_refuse(path: str, value: Any) -> None:
    job = only(build(JOBS), "RayJob", "catalog")
    assert refusals(job) == []
    assert len(refusals(changed(job, path, value))) == 1


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("securityContext.runAsUser", None),
        ("securityContext.seccompProfile", None),
        ("containers.0.securityContext.readOnlyRootFilesystem", False),
        ("containers.0.securityContext.capabilities", None),
        ("containers.0.image", "agescale:latest"),
        ("containers.0.env", [{"name": "AWS_SECRET_ACCESS_KEY", "value": "abc"}]),
    ],
)
def test_a_pod_is_not_locked_up_without(path: str, value: Any) -> None:
    pod = next(pods(build(JOBS)[0]))
    assert lapses(pod) == []
    assert len(lapses(changed(pod, path, value))) == 1


@pytest.mark.parametrize(
    ("kind", "path", "value"),
    [
        ("CronJob", "spec.concurencyPolicy", "Forbid"),
        ("CronJob", "spec.jobTemplate.spec.podFailurePolicy.rules.0.onExitCode", {}),
        ("NetworkPolicy", "spec.podselector", {}),
        ("PodDisruptionBudget", "spec.minAvailible", 1),
        ("Role", "rules.0.verb", ["get"]),
    ],
)
def test_kubernetes_schema_sees(kind: str, path: str, value: Any) -> None:
    resource = only(build(STANDING), kind)
    assert violations(resource) == []
    assert violations(changed(resource, path, value))


YAML_RULES = json.dumps(
    {
        "extends": "default",
        "rules": {"document-start": "disable", "line-length": {"max": 120}},
    }
)


def test_all_yaml_is_tidy(tmp_path: Path) -> None:
    files = sorted(CLUSTER.rglob("*.yaml")) + sorted(CLUSTER.rglob("*.yml"))
    assert len(files) > 15
    checked = run("yamllint", "--strict", "--config-data", YAML_RULES, *files)
    assert checked.returncode == 0, checked.stdout
    twice = tmp_path / "twice.yaml"
    twice.write_text("a: 1\na: 2\n")
    assert "duplication" in run("yamllint", "--config-data", YAML_RULES, twice).stdout


def test_the_dockerfile_is_clean(tmp_path: Path) -> None:
    checked = run("hadolint", CLUSTER / "Dockerfile")
    assert checked.returncode == 0, checked.stdout
    text = (CLUSTER / "Dockerfile").read_text()
    spoiled = tmp_path / "Dockerfile"
    spoiled.write_text(re.sub(r"FROM python:\S+", "FROM python", text))
    assert "DL3006" in run("hadolint", spoiled).stdout, "an image without a version"
    assert text.index("constraints.txt") < text.index("COPY agescale"), "code above the dependencies' layer"
    assert re.search(r"^USER \d+:\d+$", text, re.M)
    assert "@sha256:" in text


def test_the_layer_of_dependencies_holds_those_of_the_project() -> None:
    program = re.search(r"RUN python -c '(.+)' >", (CLUSTER / "Dockerfile").read_text())
    assert program
    made = run(sys.executable, "-c", program[1].replace("/project/pyproject.toml", str(ROOT / "pyproject.toml")))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert made.stdout.splitlines() == [*project["dependencies"], *extras["heif"], *extras["mlflow"]]


def test_the_image_gets_what_it_needs_and_nothing_else() -> None:
    ignored = (ROOT / ".dockerignore").read_text().split("\n")
    assert ignored[1] == "*"
    taken = {line[1:] for line in ignored if line.startswith("!")}
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (CLUSTER / "Dockerfile").read_text(), re.M)
    assert taken == {name for line in copied for name in line.split()}
    assert all((ROOT / name).exists() for name in taken)


def test_a_checkout_that_is_submitted_has_the_whole_package_and_its_model() -> None:
    from ray._private.runtime_env.packaging import get_excludes_from_ignore_files  # what --working-dir goes by

    are_left_out = get_excludes_from_ignore_files(ROOT, include_gitignore=True)
    files = [file for folder in ("agescale", "jobs") for file in (ROOT / folder).rglob("*") if file.is_file()]
    files = [file for file in files if "__pycache__" not in file.parts]
    assert {file.suffix for file in files} >= {".py", ".pt", ".safetensors", ".j2"}
    assert not [file for file in files for is_left_out in are_left_out if is_left_out(file)]


def test_the_shell_scripts_are_clean(tmp_path: Path) -> None:
    checked = run("shellcheck", *sorted(CLUSTER.glob("*.sh")))
    assert checked.returncode == 0, checked.stdout
    spoiled = tmp_path / "spoiled.sh"
    spoiled.write_text("#!/bin/bash\nrm $1/*\n")
    assert run("shellcheck", spoiled).returncode


@pytest.mark.parametrize("name", ["aws", "local"])
def test_ray_up_takes_the_file_and_would_refuse_a_misspelt_one(name: str) -> None:
    from ray.autoscaler._private.util import fillout_defaults, validate_config

    config = yaml.safe_load((CLUSTER / "ray-up" / f"{name}.yaml").read_text())
    validate_config(fillout_defaults(copy.deepcopy(config)))
    with pytest.raises(Exception, match="idle_timeout_minute"):
        validate_config(fillout_defaults({**config, "idle_timeout_minute": 5}))
    start = " ".join(config["head_start_ray_commands"])
    assert "--num-cpus=0" in start
    assert "--dashboard-host=127.0.0.1" in start, "the dashboard is reached by `ray dashboard`, through ssh"


def test_nodes_of_aws_are_what_the_page_says() -> None:
    config = yaml.safe_load((CLUSTER / "ray-up" / "aws.yaml").read_text())
    types = config["available_node_types"]
    assert "InstanceMarketOptions" not in types["head"]["node_config"], "the head is bought on demand"
    for name in ("cpu", "gpu"):
        assert types[name]["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert all(node["resources"] and node["node_config"]["IamInstanceProfile"] for node in types.values())
    assert len(config["provider"]["availability_zone"].split(",")) > 1
    assert any("--shm-size" in option for option in config["docker"]["run_options"])


@pytest.mark.parametrize("name", ["iam-head", "iam-bucket"])
def test_aws_policies_allow_no_whole_service(name: str) -> None:
    policy = json.loads((CLUSTER / "ray-up" / f"{name}.json").read_text())
    for statement in policy["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert not any("*" in action for action in actions)
        only_looks = all(action.startswith("ec2:Describe") for action in actions)
        assert only_looks or statement["Resource"] != "*"


def test_a_job_of_slurm_runs_one_ray_and_ends_with_the_jobs_code(tmp_path: Path) -> None:
    """With stand-ins for Slurm and Ray: what is started, with what."""
    stands_for = {"scontrol": "echo node-1; echo node-2", "srun": 'exec "${@:3}"'}
    stands_for["ray"] = 'echo "ray $*" "$RAY_AUTH_MODE" "${#RAY_AUTH_TOKEN}"; exit 3'
    for name, does in stands_for.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{does}\n")
        (tmp_path / name).chmod(0o755)
    (tmp_path / "bin").symlink_to(tmp_path)
    env = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "AGESCALE_VENV": str(tmp_path)}
    env |= {
        "SLURM_JOB_ID": "123456",
        "SLURM_JOB_NODELIST": "node-[1-2]",
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_CPUS_ON_NODE": "4",
    }
    ran = run("bash", CLUSTER / "slurm.sh", "python", "jobs/score.py", "--out", "a b", env=env)
    assert ran.returncode == 3, ran.stderr
    options = "--address node-1:23456 --min-nodes 2 --num-cpus 4"
    assert ran.stdout == f"ray symmetric-run {options} -- python jobs/score.py --out a b token 64\n"
    assert run("bash", CLUSTER / "slurm.sh", env=env).returncode == 2


def test_skypilot_takes_the_file() -> None:
    schemas = pytest.importorskip("sky.utils.schemas")
    from jsonschema import validate

    task = yaml.safe_load((CLUSTER / "skypilot.yaml").read_text())
    validate(task, schemas.get_task_schema())
    validate(task["resources"], schemas.get_resources_schema())


def test_prometheus_takes_its_files_and_alerts_fire_when_they_should(tmp_path: Path) -> None:
    folder = CLUSTER / "monitoring"
    for command in (
        ["check", "config", "--syntax-only", folder / "prometheus.yml"],
        ["test", "rules", folder / "alerts_test.yml"],
    ):
        checked = run("promtool", *command, cwd=folder)
        assert checked.returncode == 0, checked.stdout + checked.stderr
    for name in ("alerts.yml", "alerts_test.yml"):
        (tmp_path / name).write_text((folder / name).read_text().replace("for: 15m", "for: 55m"))
    assert run("promtool", "test", "rules", tmp_path / "alerts_test.yml").returncode, "an alert that comes too late"


def expressions() -> dict[str, str]:
    """Every query of the dashboard, by its panel, for all clusters."""
    dashboard = json.loads((CLUSTER / "monitoring" / "grafana.json").read_text())
    return {
        f"{panel['title']} {target['refId']}": target["expr"].replace("$session", ".*")
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }


def test_every_query_of_the_dashboard_can_be_read_by_prometheus(tmp_path: Path) -> None:
    rules = [{"record": f"a:{number}", "expr": query} for number, query in enumerate(expressions().values())]
    file = tmp_path / "rules.yml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    assert run("promtool", "check", "rules", file).returncode == 0
    file.write_text(file.read_text().replace("sum by", "sum buy", 1))
    assert run("promtool", "check", "rules", file).returncode


def metrics_asked_for() -> list[str]:
    text = " ".join(expressions().values()) + (CLUSTER / "monitoring" / "alerts.yml").read_text()
    return sorted(set(re.findall(r"ray_agescale_(\w+?)(?:_total)?\b", text)))


@pytest.mark.parametrize("name", metrics_asked_for())
def test_what_is_asked_for_is_exported_by_a_job(name: str) -> None:
    sources = "\n".join(file.read_text() for file in (ROOT / "agescale").rglob("*.py"))
    assert f'"agescale_{name}"' in sources
