"""Why something could not be had from the Hub, in a few words.

diffusers and datasets fall back to their caches when a download fails, and then report what is missing there; the reason is
further down in the chain of exceptions.
"""

from __future__ import annotations

from collections.abc import Iterator

from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


# What the client raises when the connection fails. huggingface_hub has changed its HTTP library once, this base with it.
TRANSPORT_ERROR = HfHubHTTPError.__bases__[0]


def hub_reason(error: BaseException) -> str | None:
    """What the Hub has said, or that it could not be asked; None for an error that has nothing to do with it."""
    chain = list(_chain(error))
    for cause in chain:
        if isinstance(cause, RevisionNotFoundError):
            return "the repository has no such revision"
        if isinstance(cause, RepositoryNotFoundError):
            return "there is no such repository, or your token may not see it (`hf auth login`)"
        if isinstance(cause, HfHubHTTPError) and cause.response is not None:
            if cause.response.status_code == 401:
                return "the Hub does not know your token (`hf auth login`)"
            return f"the Hub answered {cause.response.status_code}"
    for cause in chain:
        if isinstance(cause, OfflineModeIsEnabled):
            return "it is not in the cache, and HF_HUB_OFFLINE is set"
        if isinstance(cause, TRANSPORT_ERROR):
            return "it is not in the cache, and the Hub cannot be reached"
    if any(isinstance(cause, LocalEntryNotFoundError) for cause in chain):
        return "it is not in the cache"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen = set()
    while error is not None and id(error) not in seen:
        yield error
        seen.add(id(error))
        error = error.__cause__ or error.__context__
