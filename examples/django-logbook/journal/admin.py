from django.contrib import admin
from django.db import transaction
from django.utils import timezone

from . import jobs
from .models import Digest, Entry, Job, Journal, Tag

admin.site.site_header = "Logbook"
admin.site.register(Tag)


@admin.register(Journal)
class JournalAdmin(admin.ModelAdmin):
    list_display = ["name", "slug", "summary"]
    prepopulated_fields = {"slug": ["name"]}


@admin.register(Entry)
class EntryAdmin(admin.ModelAdmin):
    list_display = ["title", "journal", "author", "happened_at", "word_count"]
    list_filter = ["journal", "tags"]
    list_select_related = ["journal"]
    search_fields = ["title", "body", "author"]
    date_hierarchy = "happened_at"
    filter_horizontal = ["tags"]
    readonly_fields = ["word_count"]

    def save_model(self, request, obj, form, change):
        with transaction.atomic():
            super().save_model(request, obj, form, change)
            jobs.queue_for(obj)


@admin.register(Digest)
class DigestAdmin(admin.ModelAdmin):
    list_display = ["journal", "week", "written_at"]
    list_filter = ["journal"]


@admin.register(Job)
class JobAdmin(admin.ModelAdmin):
    list_display = ["kind", "state", "attempts", "run_at", "finished_at", "error"]
    list_filter = ["state", "kind"]
    actions = ["run_again"]

    @admin.action(description="Run the selected jobs again", permissions=["run_again"])
    def run_again(self, request, queryset):
        count = queryset.update(state=Job.State.QUEUED, attempts=0, run_at=timezone.now(), finished_at=None)
        self.message_user(request, f"{count} queued.")

    def has_add_permission(self, request):
        return False

    def has_change_permission(self, request, obj=None):
        return False

    def has_run_again_permission(self, request):
        return request.user.has_perm("journal.change_job")
