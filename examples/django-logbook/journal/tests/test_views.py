from datetime import date, timedelta

from django.contrib.auth.models import User
from django.test import TestCase
from django.urls import reverse
from django.utils import timezone

from journal.models import Digest, Entry, Job, Tag
from journal.tests import MONDAY_MORNING, make_entry, make_journal


class HealthTest(TestCase):
    def test_without_database_and_with_any_host(self):
        with self.assertNumQueries(0):
            response = self.client.get("/up", headers={"host": "10.0.0.7:8080"})
        self.assertEqual((response.status_code, response.content), (200, b"up\n"))

    def test_other_pages_mind_the_host(self):
        with self.assertLogs("django.security.DisallowedHost", "ERROR"):
            response = self.client.get("/", headers={"host": "10.0.0.7:8080"})
        self.assertEqual(response.status_code, 400)


class PagesTest(TestCase):
    def setUp(self):
        self.journal = make_journal()

    def test_front_page_empty(self):
        self.journal.delete()
        self.assertContains(self.client.get("/"), "No journals yet.")

    def test_front_page(self):
        make_entry(self.journal)
        make_journal("engine-room")
        with self.assertNumQueries(1):
            response = self.client.get("/")
        self.assertContains(response, "1 entry, the latest on 2 June 2025")
        self.assertContains(response, "0 entries")

    def test_journal(self):
        for number in range(21):
            make_entry(self.journal, title=f"Watch {number:02}", happened_at=MONDAY_MORNING + timedelta(hours=number))
        Digest.objects.create(journal=self.journal, week=date(2025, 6, 2), text="21 entries")
        with self.assertNumQueries(5):  # the journal, the digest, the number of entries, a page of them, their tags
            response = self.client.get("/journals/north-sea/")
        self.assertContains(response, "Week of 2 June 2025")
        self.assertContains(response, "Watch 20")
        self.assertNotContains(response, "Watch 00")
        self.assertContains(self.client.get("/journals/north-sea/?page=2"), "Watch 00")

    def test_tag(self):
        make_entry(self.journal, title="Reefed").tags.add(Tag.objects.create(name="weather"))
        make_entry(self.journal, title="Painted")
        response = self.client.get("/journals/north-sea/?tag=weather")
        self.assertContains(response, "Reefed")
        self.assertNotContains(response, "Painted")

    def test_entry(self):
        entry = make_entry(self.journal, body="One.\n\n<b>Two.</b>", wind=0)
        response = self.client.get(entry.get_absolute_url())
        self.assertContains(response, "<p>One.</p>", html=True)
        self.assertContains(response, "&lt;b&gt;Two.&lt;/b&gt;")
        self.assertContains(response, "0 Bft")
        self.assertContains(response, "not counted yet")

    def test_unknown(self):
        for path in ["/journals/baltic/", "/journals/baltic/new/", "/entries/0/"]:
            with self.subTest(path=path):
                self.assertContains(self.client.get(path), "Not in the log", status_code=404)


class NewEntryTest(TestCase):
    def setUp(self):
        self.journal = make_journal()
        self.address = reverse("new-entry", args=["north-sea"])

    def post(self, **fields):
        whole = {"title": "Landfall", "author": "Noor", "happened_at": "2025-06-06T09:00", "body": "Sumburgh Head."}
        return self.client.post(self.address, whole | fields, follow=True)

    def check_refused(self, field, message, **fields):
        response = self.post(**fields)
        self.assertEqual(response.status_code, 200)
        self.assertFormError(response.context["form"], field, message)
        self.assertFalse(Entry.objects.exists())
        self.assertFalse(Job.objects.exists())

    def test_form(self):
        self.assertContains(self.client.get(self.address), "data-count-words")

    def test_created_with_its_jobs(self):
        response = self.post(tags="Weather, landfall,weather,", wind="4")
        self.assertContains(response, "The entry is in the log.")
        entry = Entry.objects.get()
        self.assertEqual((entry.journal, entry.wind), (self.journal, 4))
        self.assertEqual([tag.name for tag in entry.tags.all()], ["landfall", "weather"])
        self.assertCountEqual(
            Job.objects.values_list("kind", "arguments"),
            [
                ("count_words", {"entry": entry.pk}),
                ("write_digest", {"journal": self.journal.pk, "week": "2025-06-02"}),
            ],
        )

    def test_refused(self):
        tomorrow = (timezone.now() + timedelta(days=1)).strftime("%Y-%m-%dT%H:%M")
        self.check_refused("title", "This field is required.", title="  ")
        self.check_refused("body", "This field is required.", body="")
        self.check_refused("wind", "Ensure this value is less than or equal to 12.", wind="13")
        future = "A logbook tells what has happened: this is in the future."
        self.check_refused("happened_at", future, happened_at=tomorrow)
        self.check_refused("tags", "At most 5 tags.", tags="a,b,c,d,e,f")
        self.check_refused("tags", "“no spaces” is not a tag: letters, digits, - and _ only.", tags="no spaces")
        self.check_refused("tags", "A tag has at most 30 characters.", tags="x" * 31)


class AdminTest(TestCase):
    def setUp(self):
        self.client.force_login(User.objects.create_superuser("skipper"))
        self.journal = make_journal()

    def test_pages(self):
        make_entry(self.journal)
        Job.objects.create(kind=Job.Kind.COUNT_WORDS)
        for model in ["journal", "entry", "tag", "digest", "job"]:
            with self.subTest(model=model):
                self.assertEqual(self.client.get(f"/admin/journal/{model}/").status_code, 200)

    def test_changed_entry_is_counted_again(self):
        entry = make_entry(self.journal)
        response = self.client.post(f"/admin/journal/entry/{entry.pk}/change/", {
            "journal": self.journal.pk, "title": "Cast off", "author": "Ilse", "body": "Changed.",
            "happened_at_0": "2025-06-02", "happened_at_1": "05:40",
        })
        self.assertRedirects(response, "/admin/journal/entry/")
        self.assertTrue(Job.objects.filter(kind="count_words", arguments={"entry": entry.pk}).exists())

    def test_run_again(self):
        job = Job.objects.create(kind=Job.Kind.COUNT_WORDS, state=Job.State.FAILED, attempts=5)
        self.client.post("/admin/journal/job/", {"action": "run_again", "_selected_action": [job.pk]})
        job.refresh_from_db()
        self.assertEqual((job.state, job.attempts), ("queued", 0))
