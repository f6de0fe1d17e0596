"""Repositories of the Hugging Face Hub, `hf://org/repo`, by the hub's own library.

Its cache, tokens, offline mode and mirrors hold: `HF_HOME`, `HF_TOKEN`,
`HF_HUB_OFFLINE`, `HF_ENDPOINT`.
"""

import contextlib
import pathlib
import re

from keras_mixer.catalog import needs_extra
from keras_mixer.weights.constants import config_in
from keras_mixer.weights.download import DownloadError

SCHEME = "hf://"
HUB_FILE = "model.safetensors"
# What the library would take for a folder above its own is refused before it sees it.
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+(?:/[\w.-]+)*))?", re.ASCII)


def is_address(weights):
    """Whether `weights=` names a repository of the hub."""
    return isinstance(weights, str) and weights.startswith(SCHEME)


def fetch_repository(address):
    """Fetch the weights of a repository and its `config.json`, unless they are cached.

    Args:
        address: `hf://org/repo`, or `hf://org/repo@revision`: a branch, a tag or a
            commit.

    Returns:
        The path of its `model.safetensors`, beside which its `config.json` lies.

    Raises:
        DownloadError: If the repository cannot be had, or holds no Mixer.
        ImportError: If the hub's library is not installed.
        ValueError: If the address is none.
    """
    repository, revision = parse_address(address)
    with _in_words(address) as hub:
        # The little one first: of another architecture nothing else is fetched.
        config = hub.hf_hub_download(repository, "config.json", revision=revision)
        folder = pathlib.Path(config).parent
        if config_in(folder):
            # The same commit, whatever was pushed meanwhile.
            path = hub.hf_hub_download(repository, HUB_FILE, revision=folder.name)
            return pathlib.Path(path)
    raise _not_a_mixer(address)


def push_folder(address, folder, private):
    """Commit the files of a folder to a repository, which is made if it is not there.

    Args:
        address: As `fetch_repository` takes it; the revision is a branch that exists.
        folder: The folder.
        private: Whether a new repository is private.

    Returns:
        The URL of the commit.

    Raises:
        DownloadError: If the hub refuses it, or cannot be reached.
        ImportError: If the hub's library is not installed.
        ValueError: If the address is none.
    """
    repository, revision = parse_address(address)
    with _in_words(address) as hub:
        hub.create_repo(repository, private=private, exist_ok=True)
        return hub.upload_folder(
            repo_id=repository,
            folder_path=folder,
            revision=revision,
            commit_message="Upload an MLP-Mixer by keras_mixer",
        ).commit_url


def parse_address(address):
    """The repository, `org/name`, and the revision or None, of an address.

    Raises:
        ValueError: If it is none.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None or ".." in address:
        raise ValueError(
            "A repository of the hub is named as hf://org/repo, or "
            f"hf://org/repo@revision. Received: {address!r}."
        )
    return match.groups()


def _not_a_mixer(address):
    return DownloadError(
        f"A repository of weights holds an MLP-Mixer's config.json and {HUB_FILE}, as "
        f"timm's and those that keras-mixer push writes. Received: {address}, which "
        "does not."
    )


@contextlib.contextmanager
def _in_words(address):
    with needs_extra("hf:// addresses", "hub"):
        import huggingface_hub
        from huggingface_hub import errors
    try:
        yield huggingface_hub.HfApi()
    except errors.RevisionNotFoundError as error:
        raise DownloadError(
            f"A revision is a branch, a tag or a commit. Received: {address}, whose "
            "repository has none of that name."
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DownloadError(
            f"The hub must know the repository, and you. Received: {address}, which is "
            "not there, or private. Look at its name, or log in: `hf auth login`, or "
            "the environment variable HF_TOKEN."
        ) from error
    except (errors.HTTPError, OSError) as error:
        if isinstance(error, errors.RemoteEntryNotFoundError):
            raise _not_a_mixer(address) from error
        status = getattr(getattr(error, "response", None), "status_code", None)
        if status in (401, 403):
            raise DownloadError(
                f"The hub must let you in. Received: HTTP {status} for {address}. Log "
                "in, `hf auth login` or the environment variable HF_TOKEN, with a "
                "token that may do this."
            ) from error
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise DownloadError(
            f"Cannot reach {address}: {reason} What was fetched once is read without "
            "a network."
        ) from error
