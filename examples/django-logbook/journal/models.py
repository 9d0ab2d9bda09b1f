from datetime import timedelta

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.urls import reverse
from django.utils import timezone

CALM, HURRICANE = 0, 12  # the ends of the Beaufort scale


class Journal(models.Model):
    """One ship, one team, one voyage: what entries are written into."""

    name = models.CharField(max_length=80)
    slug = models.SlugField(unique=True)
    summary = models.CharField(max_length=200, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["name"]

    def __str__(self):
        return self.name

    def get_absolute_url(self):
        return reverse("journal", args=[self.slug])


class Tag(models.Model):
    name = models.SlugField(max_length=30, unique=True)

    class Meta:
        ordering = ["name"]

    def __str__(self):
        return self.name


class Entry(models.Model):
    """What happened, when, and who wrote it down."""

    journal = models.ForeignKey(Journal, on_delete=models.CASCADE, related_name="entries")
    author = models.CharField(max_length=60)
    title = models.CharField(max_length=120)
    body = models.TextField()
    happened_at = models.DateTimeField(default=timezone.now)
    wind = models.PositiveSmallIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(CALM), MaxValueValidator(HURRICANE)],
        help_text="Beaufort, 0 to 12",
    )
    tags = models.ManyToManyField(Tag, blank=True, related_name="entries")
    word_count = models.PositiveIntegerField(null=True, editable=False)  # None until the worker has counted
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        ordering = ["-happened_at", "-id"]
        verbose_name_plural = "entries"
        indexes = [models.Index(fields=["journal", "-happened_at"], name="entry_by_time")]
        constraints = [
            models.CheckConstraint(
                condition=models.Q(wind__range=(CALM, HURRICANE)),
                name="entry_wind_is_beaufort",
            ),
        ]

    def __str__(self):
        return self.title

    def get_absolute_url(self):
        return reverse("entry", args=[self.pk])

    @property
    def week(self):
        """The Monday of the week in which it happened."""
        day = timezone.localdate(self.happened_at)
        return day - timedelta(days=day.weekday())


class Digest(models.Model):
    """A week of a journal in a few lines, written by the worker."""

    journal = models.ForeignKey(Journal, on_delete=models.CASCADE, related_name="digests")
    week = models.DateField(help_text="the Monday")
    text = models.TextField()
    written_at = models.DateTimeField(auto_now=True)

    class Meta:
        ordering = ["-week"]
        constraints = [
            models.UniqueConstraint(fields=["journal", "week"], name="digest_once_a_week"),
        ]

    def __str__(self):
        return f"{self.journal}, week of {self.week}"


class JobQuerySet(models.QuerySet):
    def ready(self):
        """What may run now, the longest waiting first."""
        return self.filter(state=Job.State.QUEUED, run_at__lte=timezone.now()).order_by("run_at", "id")


class Job(models.Model):
    """Work to be done after a request, stored in the transaction that asks for it.

    `journal.jobs` queues and runs it.
    """

    class Kind(models.TextChoices):
        COUNT_WORDS = "count_words"
        WRITE_DIGEST = "write_digest"

    class State(models.TextChoices):
        QUEUED = "queued"
        DONE = "done"
        FAILED = "failed"

    kind = models.CharField(max_length=30, choices=Kind)
    arguments = models.JSONField(default=dict)
    state = models.CharField(max_length=10, choices=State, default=State.QUEUED)
    run_at = models.DateTimeField(default=timezone.now)
    attempts = models.PositiveSmallIntegerField(default=0)
    error = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = JobQuerySet.as_manager()

    class Meta:
        ordering = ["-id"]
        indexes = [
            # Done jobs pile up; the worker's question must not get slower with them.
            models.Index(fields=["run_at", "id"], name="job_ready", condition=models.Q(state="queued")),
        ]

    def __str__(self):
        return f"{self.kind} {self.pk}"
