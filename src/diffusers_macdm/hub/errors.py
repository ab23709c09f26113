"""The Hub's answers in a few words: why something could not be had from it, and why nothing could be pushed.

diffusers and datasets fall back to their caches when a download fails, and then report what is missing there; the reason is
further down in the chain of exceptions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub.errors import (
    HfHubHTTPError,
    LocalEntryNotFoundError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)


# What the client raises when the connection fails. huggingface_hub has changed its HTTP library once, this base with it.
TRANSPORT_ERROR = HfHubHTTPError.__bases__[0]


def hub_reason(error: BaseException) -> str | None:
    """Say what the Hub has said, or that it could not be asked; None for an error that has nothing to do with it."""
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


@contextmanager
def one_sentence(repo_id: str) -> Iterator[None]:
    """Turn what the client raises in a push into one sentence that says what to do."""
    try:
        yield
    except LocalTokenNotFoundError as error:
        raise PermissionError("The Hub needs to know who pushes: run `hf auth login`, or give a token.") from error
    except OfflineModeIsEnabled as error:
        raise ConnectionError(f"{repo_id}: HF_HUB_OFFLINE is set, so nothing can be pushed.") from error
    except RevisionNotFoundError as error:
        raise ValueError(f"{repo_id}: there is no such revision.") from error
    except RepositoryNotFoundError as error:
        raise FileNotFoundError(f"{repo_id}: no such repository, or this token may not see it.") from error
    except HfHubHTTPError as error:
        status = error.response.status_code if error.response is not None else None
        if status == 401:
            raise PermissionError("The Hub does not know this token: run `hf auth login`, or give another one.") from error
        if status == 403:
            raise PermissionError(f"{repo_id}: this token may not write there; it needs the write role.") from error
        if status == 412:
            raise ConnectionError(f"{repo_id} was changed by someone else meanwhile: run the push again.") from error
        raise OSError(f"{repo_id}: the Hub answered {status}: {_first_line(error)}") from error
    except ValueError as error:  # a card whose metadata the Hub refuses, in several lines
        raise ValueError(" ".join(str(error).split())) from error
    except (TRANSPORT_ERROR, RuntimeError) as error:  # RuntimeError: how the client reports an upload that failed
        raise ConnectionError(
            f"{repo_id}: the connection to the Hub broke ({_first_line(error.__cause__ or error)}). What was published before "
            "is still in place, unless it was the last answer that got lost; run the push again."
        ) from error


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
