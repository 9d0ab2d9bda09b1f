"""The outbox: work is queued in the transaction that asks for it and run by `manage.py work`.

- A worker claims a job by locking its row, with SKIP LOCKED, and holds the lock while it works:
  any number of workers share the table, and none waits for another.
- What the job writes and the note that it is done are one transaction. A worker that is killed
  leaves nothing behind: PostgreSQL drops the lock and the next worker finds the job as it was.
- A job that fails is tried again later, MAX_ATTEMPTS times in all. A lost connection is not the
  job's fault and counts for nothing.
"""

import logging
from datetime import date, timedelta

from django.db import InterfaceError, OperationalError, transaction
from django.utils import timezone

from .models import Digest, Entry, Job, Journal

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
FIRST_PAUSE = timedelta(seconds=10)  # doubled by each further attempt


def queue_for(entry):
    """Queue what a new or changed entry brings with it."""
    Job.objects.create(kind=Job.Kind.COUNT_WORDS, arguments={"entry": entry.pk})
    Job.objects.create(
        kind=Job.Kind.WRITE_DIGEST,
        arguments={"journal": entry.journal_id, "week": entry.week.isoformat()},
    )


@transaction.atomic
def run_next():
    """Claim and run one job; None if there is nothing to do."""
    job = Job.objects.ready().select_for_update(skip_locked=True).first()
    if job is None:
        return None
    job.attempts += 1
    try:
        with transaction.atomic():  # what a failed job has written is undone, its row is kept
            HANDLERS[job.kind](**job.arguments)
    except (OperationalError, InterfaceError):
        raise
    except Exception as error:
        _note_failure(job, error)
    else:
        job.state, job.error, job.finished_at = Job.State.DONE, "", timezone.now()
        log.info("%s done", job)
    job.save()
    return job


def _note_failure(job, error):
    job.error = f"{type(error).__name__}: {error}"
    if job.attempts < MAX_ATTEMPTS:
        job.run_at = timezone.now() + FIRST_PAUSE * 2 ** (job.attempts - 1)
        log.warning("%s failed, attempt %d of %d", job, job.attempts, MAX_ATTEMPTS, exc_info=error)
    else:
        job.state, job.finished_at = Job.State.FAILED, timezone.now()
        log.error("%s failed for good", job, exc_info=error)


def count_words(entry):
    """Note the number of words; an entry deleted in the meantime needs none."""
    found = Entry.objects.filter(pk=entry)
    for body in found.values_list("body", flat=True):
        found.update(word_count=len(body.split()))


def write_digest(journal, week):
    """Write the digest of one week, or write it anew."""
    # One at a time for a journal: else the slower of two workers could store the older reading.
    locked = Journal.objects.select_for_update(no_key=True).filter(pk=journal).first()
    if locked is None:
        return
    monday = date.fromisoformat(week)
    entries = locked.entries.filter(
        happened_at__date__gte=monday,
        happened_at__date__lt=monday + timedelta(days=7),
    ).order_by("happened_at", "id")
    Digest.objects.update_or_create(journal=locked, week=monday, defaults={"text": digest_text(list(entries))})


def digest_text(entries):
    """The lines of a digest, of entries in the order of time."""
    words = sum(len(entry.body.split()) for entry in entries)
    winds = [entry.wind for entry in entries if entry.wind is not None]
    head = f"{_count(len(entries), 'entry', 'entries')}, {_count(words, 'word', 'words')}"
    if winds:
        head += f", wind up to {max(winds)} Bft"
    return "\n".join([head, *(f"{entry.happened_at:%a %H:%M} {entry.title}" for entry in entries)])


def _count(number, one, many):
    return f"{number} {one if number == 1 else many}"


HANDLERS = {
    Job.Kind.COUNT_WORDS: count_words,
    Job.Kind.WRITE_DIGEST: write_digest,
}
