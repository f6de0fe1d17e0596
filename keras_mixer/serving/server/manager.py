"""Which versions of which models are served: polling, hot swap, labels."""

import contextlib
import dataclasses
import threading
import time

from absl import logging
from tensorflow_serving.apis import get_model_status_pb2

from keras_mixer.serving import publishing
from keras_mixer.serving.server.errors import invalid_argument, not_found
from keras_mixer.serving.server.servable import Servable

State = get_model_status_pb2.ModelVersionStatus


@dataclasses.dataclass
class _Version:
    state: int = State.LOADING
    servable: Servable | None = None
    requests: int = 0
    # Of one that failed: what there was of its files, and when.
    error: str = ""
    files: list = dataclasses.field(default_factory=list)
    tried_seconds: float = 0.0


# A version that failed is tried again when its files change, and after this while:
# memory or file descriptors may have been short.
_RETRY_SECONDS = 60.0


class Manager:
    """Load the versions that a configuration asks for, and find them for requests.

    A new version is loaded and warmed up before the old one is let go, and the old one
    goes when its last request is answered.

    Args:
        read_config: Function that returns the `ModelServerConfig`; called at each poll.
        metrics: The server's `Metrics`.
    """

    def __init__(self, read_config, metrics):
        self._read_config = read_config
        self._metrics = metrics
        self._config = {}
        self._versions = {}
        self._changed = threading.Condition()
        self._stop = threading.Event()
        self._poller = None

    def start(self, poll_seconds):
        """Load what is there, then look for changes every `poll_seconds`."""
        self._apply(self._read_config())

        def poll():
            while not self._stop.wait(poll_seconds):
                try:
                    self._apply(self._read_config())
                except ValueError as error:
                    logging.error("%s", error)
                except Exception:
                    # It goes on looking, whatever happened.
                    logging.exception("Looking for new versions failed.")

        self._poller = threading.Thread(target=poll, name="poller", daemon=True)
        self._poller.start()

    def close(self):
        """Stop polling, and release all versions once their requests are answered."""
        self._stop.set()
        if self._poller is not None:
            self._poller.join()
        for name, versions in self._versions.items():
            for number in versions:
                self._unload(name, number)

    @contextlib.contextmanager
    def use(self, model_spec):
        """Yield the `Servable` of a `ModelSpec`, which stays loaded in the block.

        Raises:
            ServingError: If there is no such model, version or label.
        """
        with self._changed:
            version = self._find(model_spec)
            version.requests += 1
        try:
            yield version.servable
        finally:
            with self._changed:
                version.requests -= 1
                self._changed.notify_all()

    def status(self, model_spec):
        """Return the `GetModelStatusResponse` of a `ModelSpec`.

        Raises:
            ServingError: If there is no such model, version or label.
        """
        response = get_model_status_pb2.GetModelStatusResponse()
        with self._changed:
            versions = self._versions.get(model_spec.name, {})
            number = self._number(model_spec)
            if number is not None and number not in versions:
                raise not_found(
                    f"Could not find version {number} of model {model_spec.name}"
                )
            if not versions:
                raise not_found(
                    f"Could not find any versions of model {model_spec.name}"
                )
            for key in sorted(versions, reverse=True):
                if number in (None, key):
                    entry = response.model_version_status.add(
                        version=key, state=versions[key].state
                    )
                    if versions[key].error:
                        entry.status.error_code = 2
                        entry.status.error_message = versions[key].error
        return response

    def knows(self, name):
        """Return whether there is a model of this name."""
        with self._changed:
            return name in self._versions

    def _find(self, model_spec):
        if not model_spec.name:
            raise invalid_argument("ModelSpec has no name specified.")
        number = self._number(model_spec)
        available = {
            key: version
            for key, version in self._versions.get(model_spec.name, {}).items()
            if version.state == State.AVAILABLE
        }
        if number is None and available:
            number = max(available)
        if number not in available:
            wanted = (
                f"Latest({model_spec.name})"
                if number is None
                else f"Specific({model_spec.name}, {number})"
            )
            raise not_found(f"Servable not found for request: {wanted}")
        return available[number]

    def _number(self, model_spec):
        choice = model_spec.WhichOneof("version_choice")
        if choice == "version":
            return model_spec.version.value
        if choice == "version_label":
            config = self._config.get(model_spec.name)
            label = model_spec.version_label
            if config is None or label not in config.version_labels:
                raise invalid_argument(f"Unrecognized servable version label: {label}")
            return config.version_labels[label]
        return None

    def _apply(self, config):
        with self._changed:
            self._config = {c.name: c for c in config.model_config_list.config}
            for name in self._config:
                self._versions.setdefault(name, {})
        for name, versions in self._versions.items():
            wanted = self._wanted(name)
            for number, path in wanted.items():
                version = versions.get(number)
                # One that was let go may be wanted again.
                was_let_go = version is not None and version.state == State.END
                if version is None or (was_let_go and _may_load(version, path)):
                    self._load(name, number, path)
            served = [n for n, v in versions.items() if v.state == State.AVAILABLE]
            for number in served:
                # The last one that works stays until there is a better one.
                better = any(n in wanted for n in served)
                if number not in wanted and (better or name not in self._config):
                    self._unload(name, number)

    def _wanted(self, name):
        """Return the paths of the versions that the configuration asks for."""
        config = self._config.get(name)
        if config is None:
            return {}
        present = publishing.versions(config.base_path)
        policy = config.model_version_policy
        kind = policy.WhichOneof("policy_choice")
        if kind == "all":
            return present
        if kind == "specific":
            numbers = [n for n in present if n in policy.specific.versions]
        else:
            numbers = list(present)[-(policy.latest.num_versions or 1) :]
        return {number: present[number] for number in numbers}

    def _load(self, name, number, path):
        version = _Version(files=_files(path), tried_seconds=time.monotonic())
        with self._changed:
            self._versions[name][number] = version
        logging.info("Loading %s version %d from %s", name, number, path)
        try:
            servable = Servable(name, number, path, self._metrics)
        except Exception as error:
            logging.error("%s", error)
            self._metrics.load(name, "fail")
            with self._changed:
                version.state = State.END
                # Not the error itself, which names folders of this machine.
                version.error = (
                    f"Version {number} of {name} cannot be served; the server's log "
                    "says why."
                )
            return
        self._metrics.load(name, "success")
        with self._changed:
            version.state, version.servable = State.AVAILABLE, servable
        logging.info("Serving %s version %d", name, number)

    def _unload(self, name, number):
        version = self._versions[name][number]
        with self._changed:
            if version.state != State.AVAILABLE:
                return
            version.state = State.UNLOADING
            self._changed.wait_for(lambda: version.requests == 0)
        version.servable.close()
        with self._changed:
            version.state, version.servable = State.END, None
        logging.info("Unloaded %s version %d", name, number)


def _may_load(version, path):
    if not version.error or _files(path) != version.files:
        return True
    return time.monotonic() - version.tried_seconds > _RETRY_SECONDS


def _files(path):
    """Return name, size and time of each file of a version, to see it change."""
    found = []
    for file in sorted(path.rglob("*")):
        with contextlib.suppress(OSError):
            status = file.stat()
            found.append((file.name, status.st_size, status.st_mtime_ns))
    return found
