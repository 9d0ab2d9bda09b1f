from datetime import date, timedelta
from io import StringIO

from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError
from django.test import TestCase

from journal.models import Digest, Entry, Job
from journal.tests import MONDAY_MORNING, make_entry, make_journal


class EntryTest(TestCase):
    def setUp(self):
        self.journal = make_journal()

    def test_newest_first(self):
        old = make_entry(self.journal)
        new = make_entry(self.journal, happened_at=MONDAY_MORNING + timedelta(hours=1))
        self.assertEqual(list(self.journal.entries.all()), [new, old])

    def test_week_starts_on_monday(self):
        for days, monday in [(-1, date(2025, 5, 26)), (0, date(2025, 6, 2)), (6, date(2025, 6, 2))]:
            with self.subTest(days=days):
                entry = Entry(journal=self.journal, happened_at=MONDAY_MORNING + timedelta(days=days))
                self.assertEqual(entry.week, monday)

    def test_wind_is_validated(self):
        entry = make_entry(self.journal, wind=12)
        entry.full_clean()
        entry.wind = 13
        with self.assertRaises(ValidationError) as refusal:
            entry.full_clean()
        self.assertIn("wind", refusal.exception.message_dict)

    def test_wind_is_constrained(self):
        with self.assertRaisesMessage(IntegrityError, "entry_wind_is_beaufort"):
            make_entry(self.journal, wind=13)

    def test_one_digest_a_week(self):
        Digest.objects.create(journal=self.journal, week=date(2025, 6, 2))
        with self.assertRaisesMessage(IntegrityError, "digest_once_a_week"):
            Digest.objects.create(journal=self.journal, week=date(2025, 6, 2))


class MigrationsTest(TestCase):
    def test_complete(self):
        call_command("makemigrations", check=True, dry_run=True, verbosity=0)


class SeedTest(TestCase):
    def seed(self):
        out = StringIO()
        call_command("seed_journal", stdout=out)
        return out.getvalue().strip()

    def test_idempotent(self):
        self.assertEqual(self.seed(), "seeded: 2 journals, 6 entries, 6 new")
        jobs = Job.objects.count()
        self.assertEqual(self.seed(), "seeded: 2 journals, 6 entries, 0 new")
        self.assertEqual(Job.objects.count(), jobs)

    def test_adds_what_is_missing(self):
        self.seed()
        Entry.objects.get(title="First reef").delete()
        self.assertEqual(self.seed(), "seeded: 2 journals, 6 entries, 1 new")
