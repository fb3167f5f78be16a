"""Models on the Hugging Face Hub: ``hf://user/name``, or ``hf://user/name@revision`` for a version of one.

Access tokens, the cache and the address of the server (``HF_ENDPOINT``) are those of ``huggingface_hub``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from rcnn.extras import install_command
from rcnn.io.telemetry import without_telemetry

PREFIX = "hf://"
MODEL_FILE = "model.safetensors"
CARD_FILE = "README.md"

HTTP_CLIENTS = ("httpx", "httpx2", "requests")
_NAME = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"


def is_hub_address(path: str | Path) -> bool:
    """Whether this names a model on the Hub."""
    return isinstance(path, str) and path.startswith(PREFIX)


def download_model(address: str) -> Path:
    """The checkpoint of a model on the Hub, downloaded once into the cache of ``huggingface_hub``.

    Args:
        address: ``hf://user/name`` or ``hf://user/name@revision``.

    Raises:
        ValueError: an address of another form, or ``huggingface_hub`` is not installed.
        FileNotFoundError: there is no such model, it holds no checkpoint of rcnn, or it is private.
        OSError: the Hub cannot be reached.
    """
    match = re.fullmatch(rf"{PREFIX}({_NAME})(?:@([\w./-]+))?", address)
    if match is None:
        raise ValueError(f"{address}: expected hf://USER/NAME, or hf://USER/NAME@REVISION")
    hub = _hub(address)
    try:
        return Path(
            hub.hf_hub_download(
                match[1], MODEL_FILE, revision=match[2], endpoint=os.environ.get("HF_ENDPOINT"),
                library_name="rcnn",
            )
        )  # fmt: skip
    except (hub.errors.RepositoryNotFoundError, hub.errors.RevisionNotFoundError) as error:
        raise FileNotFoundError(
            f"{address}: no such model or version; if it is private, log in with: hf auth login"
        ) from error
    except hub.errors.LocalEntryNotFoundError as error:  # an EntryNotFoundError, too
        raise OSError(f"{address}: the Hub cannot be reached, and no copy is in its cache") from error
    except hub.errors.EntryNotFoundError as error:
        raise FileNotFoundError(
            f"{address}: it has no {MODEL_FILE}, so rcnn push did not write it; download its files, and "
            "convert models of other programs with: rcnn weights import"
        ) from error


def check_repository(repository: str) -> ModuleType:
    """The library, if a repository can have this name; asked before a model is loaded.

    Raises:
        ValueError: a name of another form, or ``huggingface_hub`` is not installed.
    """
    if re.fullmatch(_NAME, repository) is None:
        raise ValueError(f"{repository}: expected USER/NAME, the user and the model on the Hub")
    return _hub(repository)


def upload_files(repository: str, files: Mapping[str, Path | bytes], *, private: bool = False) -> str:
    """Put files into a model repository on the Hub, which is created if it is not there, in one commit.

    Args:
        repository: ``user/name``.
        files: what they are called there: a file, or its content.
        private: of a repository that is created: only its owner sees it.

    Returns:
        The address of the repository's page.

    Raises:
        ValueError: a name of another form, or ``huggingface_hub`` is not installed.
        OSError: no permission, or the Hub cannot be reached.
    """
    hub = check_repository(repository)
    api = hub.HfApi(endpoint=os.environ.get("HF_ENDPOINT"), library_name="rcnn")
    operations = [
        hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=content) for name, content in files.items()
    ]
    try:
        url = api.create_repo(repository, private=private, exist_ok=True)
        api.create_commit(repository, operations, commit_message="Upload a model by rcnn push")
    except hub.errors.HfHubHTTPError as error:
        raise OSError(
            f"{repository}: the Hub refused it ({error.server_message or error}); log in with hf auth login, "
            "or set HF_TOKEN to a token that may write"
        ) from error
    except Exception as error:
        # The library hands on the errors of its HTTP client, of which it has had several.
        if type(error).__module__.partition(".")[0] not in HTTP_CLIENTS:
            raise
        raise OSError(f"{repository}: the Hub cannot be reached ({error}); nothing was written") from error
    return str(url)


def _hub(what: str) -> ModuleType:
    """The library.

    Raises:
        ValueError: it is not installed.
    """
    try:
        with without_telemetry("huggingface_hub"):
            import huggingface_hub
    except ModuleNotFoundError as error:
        raise ValueError(f"{what}: the Hub needs huggingface_hub: {install_command('hub')}") from error
    return huggingface_hub
