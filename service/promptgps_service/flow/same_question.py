"""A batch is known by (run, sequence): whether who asks for it again asks for the same one."""

from __future__ import annotations

from promptgps_client.wire import SelectBatch

from promptgps_service.errors import Conflict, Fault
from promptgps_service.flow.digest import request_digest
from promptgps_service.store.records import SelectionRecord

# What only shapes the answer, or how long it is waited for.
RENDERING = frozenset({"include_text", "wait_seconds", "sequence"})
# What ranks and restarted trainers say differently of the same batch: they get it, and a warning.
_ASIDE = frozenset({"policy_version", "subset"})
_SUBSET_KEPT = 24  # characters of a subset's id that are kept beside the digest


def question_of(request: SelectBatch) -> str:
    """What is kept of a request with its selection: a digest, and the subset that it named."""
    digest = request_digest(request, RENDERING | _ASIDE)
    return digest if request.subset is None else f"{digest}.{request.subset[:_SUBSET_KEPT]}"


def require_same(found: SelectionRecord, request: SelectBatch, question: str) -> None:
    """Check that a sequence is asked for again with the same question.

    Args:
        found: what the sequence was answered with.
        request: as it is now.
        question: ``question_of`` it.

    Raises:
        Conflict: it is another; names what differs, as far as that is known.
    """
    same = found.request.partition(".")[0] == question.partition(".")[0]
    if same or _as_before(found, request):
        return

    fields = []
    if request.batch_size != found.size:
        fields.append(_other("batch_size", found.size, request.batch_size))
    if request.rollouts is not None and request.rollouts != found.rollouts:
        fields.append(_other("rollouts", found.rollouts, request.rollouts))

    told = "; ".join(fault.detail for fault in fields) or "other candidates, exclude or rollouts"
    detail = f"sequence {found.sequence} has answered another request: {told}"
    raise Conflict(detail, (Fault("sequence", detail), *fields))


def _as_before(found: SelectionRecord, request: SelectBatch) -> bool:
    """Whether it is the question by version 0.1.0's digest, which had the policy version in it."""
    unknown_then = dict.fromkeys(("subset", "candidates_pool", "exclude_pool"))
    then = request.model_copy(update={"policy_version": found.policy_version, **unknown_then})
    return found.request == request_digest(then, RENDERING)


def warnings_of(found: SelectionRecord, request: SelectBatch) -> list[str]:
    """What a caller should know that asks for the same batch in other words."""
    told = []
    asked = request.policy_version
    if asked is not None and asked != found.policy_version:
        then = f"policy_version {found.policy_version}"
        then = "no policy_version" if found.policy_version is None else then
        told.append(
            f"sequence {found.sequence} was drawn with {then}, not {asked}: these are its draws"
        )

    subset = found.request.partition(".")[2]
    if (request.subset or "")[:_SUBSET_KEPT] != subset:
        then = "another subset" if subset else "no subset"
        told.append(f"sequence {found.sequence} was drawn with {then}: these are its draws")

    return told


def _other(field: str, then: int, now: int) -> Fault:
    return Fault(field, f"{field} was {then} then, and is {now} now")
