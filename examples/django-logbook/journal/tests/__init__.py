from datetime import datetime, timezone

from journal.models import Entry, Journal

MONDAY_MORNING = datetime(2025, 6, 2, 5, 40, tzinfo=timezone.utc)


def make_journal(slug="north-sea"):
    return Journal.objects.create(slug=slug, name=slug.replace("-", " ").capitalize())


def make_entry(journal, **fields):
    fields = {"title": "Cast off", "author": "Ilse", "body": "All sail set.", "happened_at": MONDAY_MORNING} | fields
    return Entry.objects.create(journal=journal, **fields)
