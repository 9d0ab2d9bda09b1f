from django.contrib import messages
from django.db import transaction
from django.db.models import Count, Max
from django.shortcuts import get_object_or_404
from django.views.generic import CreateView, DetailView, ListView

from . import jobs
from .forms import EntryForm
from .models import Entry, Journal


class JournalList(ListView):
    """The front page: every journal, with how much is in it."""

    template_name = "journal/journal_list.html"
    queryset = Journal.objects.annotate(size=Count("entries"), latest=Max("entries__happened_at"))


class InJournal:
    """A view of one journal, named by the address."""

    def setup(self, request, *args, **kwargs):
        super().setup(request, *args, **kwargs)
        self.journal = get_object_or_404(Journal, slug=kwargs["slug"])

    def get_context_data(self, **kwargs):
        return super().get_context_data(journal=self.journal, **kwargs)


class EntryList(InJournal, ListView):
    """The entries of a journal, newest first; `?tag=` shows only those with a tag."""

    template_name = "journal/entry_list.html"
    context_object_name = "entries"
    paginate_by = 20

    def get_queryset(self):
        entries = self.journal.entries.prefetch_related("tags")
        tag = self.request.GET.get("tag")
        return entries.filter(tags__name=tag) if tag else entries

    def get_context_data(self, **kwargs):
        return super().get_context_data(
            tag=self.request.GET.get("tag", ""),
            digest=self.journal.digests.first(),
            **kwargs,
        )


class EntryDetail(DetailView):
    template_name = "journal/entry_detail.html"
    queryset = Entry.objects.select_related("journal").prefetch_related("tags")


class NewEntry(InJournal, CreateView):
    template_name = "journal/entry_form.html"
    form_class = EntryForm

    def form_valid(self, form):
        form.instance.journal = self.journal
        with transaction.atomic():
            response = super().form_valid(form)
            jobs.queue_for(self.object)
        messages.success(self.request, "The entry is in the log.")
        return response
