"""Runs in repositories of the Hugging Face hub are fetched by the library of the hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from toptune.errors import InputError

# Kinds of files that are sent and fetched; nothing else in a repository is looked at.
HUB_FILES = (".safetensors", ".json")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def check_repository(repository: str) -> None:
    """Refuse what cannot be the name of a repository.

    Raises
    ------
    InputError
        If the name is not ``user/name``.
    """
    if not _REPOSITORY.fullmatch(repository):
        raise InputError(
            f"repository {repository!r:.100} is not of the form user/name, such as ada/bird-heads"
        )


def fetch_run(repository: str, *, revision: str | None = None, endpoint: str | None = None) -> Path:
    """Fetch safetensors and JSON files of a repository into the cache of the hub, and return their folder.

    Raises
    ------
    InputError
        If the hub refuses, or has no such repository.
    """
    check_repository(repository)
    from huggingface_hub import snapshot_download

    with explained_hub(repository, does="give the run"):
        return Path(
            snapshot_download(
                repository, revision=revision, endpoint=endpoint, library_name="toptune",
                allow_patterns=[f"*{suffix}" for suffix in HUB_FILES],
            )
        )  # fmt: skip


@contextmanager
def explained_hub(repository: str, *, does: str) -> Iterator[None]:
    """Say in one sentence why the hub does not do something.

    Parameters
    ----------
    repository : str
        ``user/name``.
    does : str
        What the hub was asked to do, for the message: ``take the run``.

    Raises
    ------
    InputError
        In place of what the library of the hub raises.
    """
    import huggingface_hub.constants
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        LocalTokenNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except InputError:
        raise
    except Exception as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if huggingface_hub.constants.HF_HUB_OFFLINE or isinstance(error, OfflineModeIsEnabled):
            why = "HF_HUB_OFFLINE is on; set it to 0, or use a run that is in the local cache"
        elif isinstance(error, LocalTokenNotFoundError) or status == 401:
            why = "it asks who you are; log in with `hf auth login`, or set HF_TOKEN"
        elif isinstance(error, GatedRepoError) or status == 403:
            why = "you may not do that there; ask the owner of the repository, or use a token that may write"
        elif isinstance(error, RevisionNotFoundError):
            why = "the repository has no such revision; leave revision out, or check the name"
        elif isinstance(error, RepositoryNotFoundError) or status == 404:
            why = "there is no such repository, or it is private and you are not logged in; check the name"
        elif isinstance(error, HfHubHTTPError | LocalEntryNotFoundError | OSError):
            text = str(error).strip().splitlines()
            why = f"{text[0] if text else type(error).__name__}; try again later"
        else:
            raise
        raise InputError(f"the hub does not {does} {repository}: {why}") from error
