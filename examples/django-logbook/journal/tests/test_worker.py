import os
import signal
import subprocess
import sys
import time
from datetime import date, timedelta
from unittest import mock
from urllib.parse import urlsplit

from django.conf import settings
from django.core.management import call_command
from django.db import OperationalError, connection
from django.test import TestCase, TransactionTestCase
from django.utils import timezone

from journal import jobs
from journal.models import Digest, Job
from journal.tests import MONDAY_MORNING, make_entry, make_journal


def fail_with(error):
    return mock.patch.dict(jobs.HANDLERS, {Job.Kind.COUNT_WORDS: mock.Mock(side_effect=error)})


class JobsTest(TestCase):
    def test_nothing_to_do(self):
        self.assertIsNone(jobs.run_next())

    def test_entry_is_counted_and_digested(self):
        journal = make_journal()
        jobs.queue_for(make_entry(journal, body="Four words, no more.", wind=3))
        sunday = MONDAY_MORNING + timedelta(days=6)
        late = make_entry(journal, title="Reefed", body="Blows.", wind=6, happened_at=sunday)
        make_entry(journal, title="Next week", happened_at=MONDAY_MORNING + timedelta(days=7))
        call_command("work", once=True)
        self.assertEqual(journal.entries.get(title="Cast off").word_count, 4)
        self.assertIsNone(journal.entries.get(pk=late.pk).word_count)
        digest = Digest.objects.get()
        self.assertEqual(digest.week, date(2025, 6, 2))
        self.assertEqual(digest.text, "2 entries, 5 words, wind up to 6 Bft\nMon 05:40 Cast off\nSun 05:40 Reefed")
        self.assertEqual(set(Job.objects.values_list("state", "attempts")), {("done", 1)})

    def test_digest_is_written_anew(self):
        journal = make_journal()
        for title in ["Cast off", "Reefed"]:
            jobs.queue_for(make_entry(journal, title=title))
            call_command("work", once=True)
        self.assertIn("2 entries", Digest.objects.get().text)

    def test_deleted_in_the_meantime(self):
        journal = make_journal()
        jobs.queue_for(make_entry(journal))
        journal.delete()
        call_command("work", once=True)
        self.assertEqual(set(Job.objects.values_list("state", flat=True)), {"done"})

    def test_later_jobs_wait(self):
        Job.objects.create(kind=Job.Kind.COUNT_WORDS, run_at=timezone.now() + timedelta(hours=1))
        self.assertIsNone(jobs.run_next())

    def test_failure_is_tried_again_then_given_up(self):
        Job.objects.create(kind=Job.Kind.COUNT_WORDS, arguments={"entry": 1})
        with fail_with(ValueError("no ink")), self.assertLogs("journal.jobs"):
            for attempt in range(1, jobs.MAX_ATTEMPTS + 1):
                job = jobs.run_next()
                self.assertEqual((job.attempts, job.error), (attempt, "ValueError: no ink"))
                self.assertIsNone(jobs.run_next(), "a failed job waits before it is tried again")
                Job.objects.update(run_at=timezone.now())
        job.refresh_from_db()
        self.assertEqual(job.state, "failed")

    def test_lost_connection_is_not_the_jobs_fault(self):
        Job.objects.create(kind=Job.Kind.COUNT_WORDS, arguments={"entry": 1})
        with fail_with(OperationalError("gone")), self.assertRaises(OperationalError):
            jobs.run_next()
        self.assertEqual(Job.objects.get().attempts, 0)


class SkipLockedTest(TransactionTestCase):
    def test_a_claimed_job_is_left_to_its_worker(self):
        first, second = (Job.objects.create(kind=Job.Kind.COUNT_WORDS, arguments={"entry": 0}) for _ in range(2))
        other = connection.copy()
        self.addCleanup(other.close)
        other.set_autocommit(False)
        with other.cursor() as cursor:
            cursor.execute("SELECT id FROM journal_job WHERE id = %s FOR UPDATE", [first.pk])
        with connection.cursor() as cursor:
            cursor.execute("SET lock_timeout = '2s'")  # a failure rather than a test that hangs
            self.addCleanup(connection.close)
        self.assertEqual(jobs.run_next(), second)
        self.assertIsNone(jobs.run_next())
        other.rollback()
        self.assertEqual(jobs.run_next(), first)


class SignalTest(TransactionTestCase):
    def start(self, *arguments):
        """The command as a process of its own, on the test's database."""
        address = urlsplit(os.environ["DATABASE_URL"])._replace(path="/" + connection.settings_dict["NAME"])
        process = subprocess.Popen(
            [sys.executable, "manage.py", "work", *arguments],
            cwd=settings.BASE_DIR,
            env={**os.environ, "DATABASE_URL": address.geturl(), "LOG_LEVEL": "INFO"},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(process.stdout.close)
        self.addCleanup(process.wait)
        self.addCleanup(process.kill)
        return process

    def wait_until_held_up(self):
        """Return when another connection to the test's database waits for a lock."""
        question = "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        deadline = time.monotonic() + 10
        with connection.cursor() as cursor:
            while time.monotonic() < deadline:
                cursor.execute(question)
                if cursor.rowcount:
                    return
                time.sleep(0.02)
        self.fail("the worker has not reached its job within 10 seconds")

    def test_stops_cleanly(self):
        for number in [signal.SIGTERM, signal.SIGINT]:
            with self.subTest(signal=number.name):
                Job.objects.all().delete()
                job = Job.objects.create(kind=Job.Kind.COUNT_WORDS, arguments={"entry": 0})
                process = self.start("--pause", "60")
                self.assertEqual(process.stdout.readline(), f"INFO journal.worker: worker {process.pid} started\n")
                self.assertEqual(process.stdout.readline(), f"INFO journal.jobs: count_words {job.pk} done\n")
                process.send_signal(number)
                self.assertEqual(process.wait(timeout=10), 0, "the wait of 60 seconds is cut short")
                self.assertEqual(
                    process.stdout.read(), f"INFO journal.worker: worker {process.pid} stopped, jobs run: 1\n",
                )

    def test_the_job_at_hand_is_finished(self):
        journal = make_journal()
        Job.objects.create(
            kind=Job.Kind.WRITE_DIGEST, arguments={"journal": journal.pk, "week": "2025-06-02"},
        )
        other = connection.copy()
        self.addCleanup(other.close)
        other.set_autocommit(False)
        with other.cursor() as cursor:  # holds the worker up in the middle of its job
            cursor.execute("SELECT id FROM journal_journal FOR UPDATE")
        process = self.start()
        self.wait_until_held_up()
        process.send_signal(signal.SIGTERM)
        with self.assertRaises(subprocess.TimeoutExpired):
            process.wait(timeout=1)
        other.rollback()
        self.assertEqual(process.wait(timeout=10), 0)
        self.assertIn("jobs run: 1", process.stdout.read())
        self.assertTrue(Digest.objects.exists())
