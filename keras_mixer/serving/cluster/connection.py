"""The cluster: to connect to it, and how many replicas find room."""

import os
import socket
from typing import Any

from keras_mixer.catalog import check_positive, needs_extra

_CONNECT_SECONDS = 5
# What this process was told by its environment, and replicas have to know.
_ENVIRONMENT = (
    "KERAS_BACKEND",
    "KERAS_HOME",
    "KERAS_MIXER_WEIGHTS_URL",
    "TF_ENABLE_ONEDNN_OPTS",
)


def connect(cluster: str) -> None:
    """Connect this process to a Ray cluster that is there.

    Args:
        cluster: `auto` for the one that this machine belongs to, else the address
            `HOST:PORT` of its head node.

    Raises:
        ImportError: If Ray is not installed.
        ValueError: If there is no such cluster.
    """
    ray = import_ray()
    if ray.is_initialized():
        return
    try:
        if cluster != "auto":
            host, _, port = cluster.rpartition("://")[2].rpartition(":")
            # Ray would try for minutes.
            socket.create_connection((host, port), _CONNECT_SECONDS).close()
        ray.init(
            cluster, logging_level="error", log_to_driver=False, configure_logging=False
        )
    except (OSError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(
            "cluster must be auto, on a machine of a Ray cluster, or the address "
            f"HOST:PORT of one. Received: {cluster} ({reason}). `ray start --head` "
            "starts one; export/ray/ has more."
        ) from error


def import_ray() -> Any:
    """Return Ray, with Ray Data.

    Raises:
        ImportError: If it is not installed, with the extra to install.
    """
    with needs_extra("Many machines", "cluster"):
        import ray
        import ray.data
    return ray


def resources(replicas: int | None) -> dict[str, Any]:
    """Say how many replicas there are, and what Ray is to give each one.

    Args:
        replicas: How many; None is one for each GPU, or for each machine.

    Returns:
        `replicas`, and the options of an actor: `num_cpus`, `num_gpus`, `runtime_env`.

    Raises:
        ValueError: If there is no room for so many.
    """
    import ray

    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    nodes = [node for node in nodes if node.get("CPU")]
    gpus = int(sum(node.get("GPU", 0) for node in nodes))
    processors = [int(node["CPU"]) for node in nodes]
    if replicas is None:
        replicas = gpus or len(nodes)
    check_positive("replicas", replicas)
    # The largest number of processors with which so many find room.
    share = max(processors, default=0)
    while share and sum(count // share for count in processors) < replicas:
        share -= 1
    if not share or (gpus and gpus < replicas):
        raise ValueError(
            "A replica takes a GPU where there are any, and a processor. Received: "
            f"replicas={replicas}, of a cluster with {sum(processors)} processors and "
            f"{gpus} GPUs."
        )
    known = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    return {
        "replicas": replicas,
        "num_cpus": share,
        "num_gpus": 1 if gpus else 0,
        "runtime_env": {"env_vars": known},
    }
