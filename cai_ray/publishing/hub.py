"""The hub: a repository's files in one commit, and what it says when something is wrong.

`huggingface_hub` does the talking: large files are stored by their content before the commit, so that an upload that
was interrupted goes on with the files that are missing, and files that are there already are not sent again. The token
is the library's own affair (HF_TOKEN, or `hf auth login`) and is never shown.

Tested in tests/publishing/test_publish.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from cai_ray.errors import ConfigError, StorageAway, causes
from cai_ray.publishing.licences import BOTH

RepoType = Literal["dataset", "model"]


def check_token() -> None:
    """Raises ConfigError where there is no token, or the hub does not know it; StorageAway."""
    from huggingface_hub import HfApi, get_token

    if not get_token():
        raise ConfigError("no token for the hub: set HF_TOKEN to one that may write, or run `hf auth login`")
    with _told("the token"):
        HfApi().whoami()


def push(
    repo: str, kind: RepoType, files: Mapping[str, Path | bytes], message: str, private: bool, ours: tuple[str, ...]
) -> str:
    """Make the repository what `files` says, in one commit; its URL. No commit is made where it is so already.

    `ours`: folders whose other files are of an earlier push and are deleted. Raises ConfigError, StorageAway.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(library_name="cai_ray")
    with _told(repo):
        url = api.create_repo(repo, repo_type=kind, private=private or None, exist_ok=True)
        if private and api.repo_info(repo, repo_type=kind).private is False:
            raise ConfigError(f"{repo} is there already and public; make it private in its settings on the hub first")
        there = api.list_repo_files(repo, repo_type=kind)
        stale = [name for name in there if name.startswith(ours) and name not in files] if ours else []
        adding = [CommitOperationAdd(name, content) for name, content in sorted(files.items())]
        deleting = [CommitOperationDelete(name) for name in stale]
        for one in adding:  # one by one: the library's pool of threads would not end before its uploads do
            api.preupload_lfs_files(repo, [one], repo_type=kind, free_memory=False)
        api.create_commit(repo, [*adding, *deleting], commit_message=message, repo_type=kind)
    return str(url)


def licence_on_hub(repo: str, kind: RepoType) -> str | None:
    """What a repository's card says; None where it says nothing or is out of reach."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (  # type: ignore[attr-defined]
        HFValidationError,
        HTTPError,
        OfflineModeIsEnabled,
    )

    try:
        info: Any = HfApi().repo_info(repo, repo_type=kind, timeout=10)
    except (HTTPError, OSError, OfflineModeIsEnabled, HFValidationError):
        return None
    licence = (info.card_data or {}).get("license")
    return BOTH.join(licence) if isinstance(licence, list) else licence


@contextmanager
def _told(what: str) -> Iterator[None]:
    """The hub's errors as ours."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

    try:
        yield
    except ConfigError:
        raise
    except Exception as error:
        for cause in causes(error):
            if isinstance(cause, OfflineModeIsEnabled):
                raise ConfigError("HF_HUB_OFFLINE is set, and publishing needs the hub; unset it") from None
            if isinstance(cause, HfHubHTTPError):
                raise _explained(what, cause.response.status_code, cause.server_message) from None
            if isinstance(cause, HTTPError):
                raise StorageAway(f"the hub does not answer ({cause}); the same command goes on") from None
        raise


def _explained(what: str, status: int, said: str | None) -> Exception:
    because = f": {said}" if said else ""
    if status == 401:
        return ConfigError(f"the hub does not take the token{because}; set HF_TOKEN to a valid one that may write")
    if status in (403, 404):
        owner = what.partition("/")[0]
        return ConfigError(
            f"{what} cannot be written (HTTP {status}{because}): the hub has no user or organisation {owner!r}, or the "
            "token may not write there; check the name, and the token's rights"
        )
    if status == 429 or status >= 500:
        return StorageAway(f"the hub cannot take {what} now (HTTP {status}{because}); the same command goes on")
    return ConfigError(f"the hub refuses {what} (HTTP {status}{because})")
