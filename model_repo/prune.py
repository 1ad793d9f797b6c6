"""Removes from a store what no stack names: repositories, halves of them, and what interrupted uploads left behind."""

import json
from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from model_repo.manifest import MANIFEST_NAME
from model_repo.store import Store, StoredObject, StoreError, UnfinishedUpload

_MODELS = "models/"
_ENGINES = "engines/"
"""Prefix of the objects that name, for a build key, the digest of the repository that was built: JSON, `digest`."""


@dataclass(frozen=True)
class StoredRepository:
    """What lies under one digest."""

    name: str
    digest: str
    complete: bool
    """Whether its manifest is there; if not, its publishing was interrupted."""
    size_bytes: int
    keys: tuple[str, ...]
    """In the order of their deletion: the manifest goes first, so that no reader finds half a repository."""
    modified: datetime
    """When its latest object was written."""


@dataclass(frozen=True)
class Pruning:
    """What would be removed from a store."""

    repositories: tuple[StoredRepository, ...]
    pointers: tuple[str, ...]
    """Keys of the objects that name an engine's repository which goes."""
    uploads: tuple[UnfinishedUpload, ...]

    @property
    def is_empty(self) -> bool:
        """Whether nothing would be removed."""
        return not (self.repositories or self.pointers or self.uploads)


def plan_pruning(store: Store, keep: Collection[str], before: datetime, name: str | None = None) -> Pruning:
    """Say what can go: what was last written before a time, and has no digest that is to be kept.

    The time protects what is being published now, and what was published and is not named by a stack yet. Unfinished
    uploads are of no digest: they go whatever is to be kept.

    Args:
        store: the store.
        keep: digests that stay, complete or not.
        before: a time with a time zone.
        name: the model whose repositories are meant; None: all.

    Raises:
        StoreError: the store cannot be used, or an engine's pointer cannot be read.
    """
    prefix = f"{_MODELS}{name}/" if name else _MODELS
    repositories = tuple(
        repository
        for repository in _repositories(store.objects(prefix))
        if repository.digest not in keep and repository.modified < before
    )
    gone = {repository.digest for repository in repositories}
    uploads = tuple(upload for upload in store.unfinished(prefix) if upload.started < before)
    pointers = tuple(
        pointer.key for pointer in (store.objects(_ENGINES) if gone else []) if _pointed(store, pointer.key) in gone
    )
    return Pruning(repositories, pointers, uploads)


def prune(store: Store, pruning: Pruning) -> None:
    """Remove it; run it again after an interrupt.

    Raises:
        StoreError: the store cannot be used.
    """
    for upload in pruning.uploads:
        store.abort(upload)
    store.delete(pruning.pointers)
    for repository in pruning.repositories:
        store.delete(repository.keys)


def _repositories(objects: list[StoredObject]) -> list[StoredRepository]:
    """Group a listing by model and digest."""
    groups: dict[tuple[str, str], list[StoredObject]] = defaultdict(list)
    for found in objects:
        name, _, rest = found.key.removeprefix(_MODELS).partition("/")
        digest, slash, _ = rest.partition("/")
        if slash:
            groups[name, digest].append(found)
    return [
        StoredRepository(
            name,
            digest,
            complete=_manifest_key(name, digest) in {found.key for found in group},
            size_bytes=sum(found.size_bytes for found in group),
            keys=tuple(sorted((found.key for found in group), key=lambda key: key != _manifest_key(name, digest))),
            modified=max(found.modified for found in group),
        )
        for (name, digest), group in sorted(groups.items())
    ]


def _manifest_key(name: str, digest: str) -> str:
    return f"{_MODELS}{name}/{digest}/{MANIFEST_NAME}"


def _pointed(store: Store, key: str) -> str | None:
    """The digest that an engine's pointer names."""
    content = store.get(key)
    if content is None:  # deleted since it was listed
        return None
    try:
        return str(json.loads(content)["digest"])
    except (ValueError, KeyError, TypeError) as error:
        raise StoreError(f'{store.url}/{key}: is not JSON with a "digest": remove it or mend it') from error
