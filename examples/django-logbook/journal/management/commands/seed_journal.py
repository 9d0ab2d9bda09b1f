from datetime import datetime, timezone

from django.core.management.base import BaseCommand
from django.db import transaction

from journal import jobs
from journal.models import Entry, Journal, Tag


def at(text):
    return datetime.fromisoformat(text).replace(tzinfo=timezone.utc)


# slug, name, summary, and the entries: time, author, wind, tags, title, body
JOURNALS = [
    (
        "north-sea",
        "North Sea crossing",
        "The ketch Marten from Esbjerg to Lerwick, five of us on board.",
        [
            (
                "2025-06-02T05:40", "Ilse", 3, ["departure", "weather"], "Cast off from Esbjerg",
                "Cleared the moles at twenty to six with the ebb. Light south-westerly, glass steady at 1016. "
                "All sail set by the fairway buoy.",
            ),
            (
                "2025-06-02T22:15", "Tomasz", 5, ["weather"], "First reef",
                "Wind backed and freshened after sunset. Took in the first reef; she sails drier and no slower.",
            ),
            (
                "2025-06-04T03:30", "Ilse", 7, ["weather", "repair"], "Jib sheet parted",
                "Port jib sheet chafed through at the fairlead. Rove the spare, moved the lead aft by a hand. "
                "Nobody hurt, tea for everyone.",
            ),
            (
                "2025-06-06T11:05", "Noor", 2, ["arrival"], "Lerwick, alongside",
                "Made fast in the small boat harbour at five past eleven. Four days, five hours, twenty-five minutes.",
            ),
        ],
    ),
    (
        "engine-room",
        "Engine room",
        "Hours, oil and everything that rattles.",
        [
            (
                "2025-06-01T16:00", "Noor", None, ["engine"], "Oil and filters changed",
                "Changed oil and both filters at 1204 hours. Impeller looks good for another season.",
            ),
            (
                "2025-06-05T08:20", "Noor", None, ["engine", "repair"], "Belt tightened",
                "Alternator belt was slipping under load. Tightened it, charge back to 14.2 volts.",
            ),
        ],
    ),
]


class Command(BaseCommand):
    help = "Creates the demo journals. Run again, it adds what is missing and changes nothing else."

    @transaction.atomic
    def handle(self, **options):
        new = 0
        for slug, name, summary, entries in JOURNALS:
            journal, _ = Journal.objects.get_or_create(slug=slug, defaults={"name": name, "summary": summary})
            for time, author, wind, tags, title, body in entries:
                entry, created = Entry.objects.get_or_create(
                    journal=journal,
                    title=title,
                    happened_at=at(time),
                    defaults={"author": author, "wind": wind, "body": body},
                )
                if created:
                    new += 1
                    entry.tags.set([Tag.objects.get_or_create(name=tag)[0] for tag in tags])
                    jobs.queue_for(entry)
        self.stdout.write(f"seeded: {Journal.objects.count()} journals, {Entry.objects.count()} entries, {new} new")
