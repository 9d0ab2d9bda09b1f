from datetime import timedelta

from django import forms
from django.core.validators import validate_slug
from django.utils import timezone

from .models import Entry, Tag

CLOCK_DRIFT = timedelta(minutes=5)  # a writer's clock may be ahead of ours by this much
MAX_TAGS = 5


class TagsField(forms.CharField):
    """Names separated by commas, as a sorted list without repetitions."""

    def clean(self, value):
        text = super().clean(value)
        names = sorted({name.strip().lower() for name in text.split(",") if name.strip()})
        if len(names) > MAX_TAGS:
            raise forms.ValidationError(f"At most {MAX_TAGS} tags.")
        longest = Tag._meta.get_field("name").max_length
        for name in names:
            if len(name) > longest:
                raise forms.ValidationError(f"A tag has at most {longest} characters.")
            try:
                validate_slug(name)
            except forms.ValidationError:
                raise forms.ValidationError(f"“{name}” is not a tag: letters, digits, - and _ only.") from None
        return names


class EntryForm(forms.ModelForm):
    tags = TagsField(required=False, help_text="Separated by commas, such as: weather, engine")

    class Meta:
        model = Entry
        fields = ["title", "author", "happened_at", "wind", "body"]
        labels = {"author": "Written by", "happened_at": "Happened at (UTC)", "body": "What happened"}
        widgets = {
            "happened_at": forms.DateTimeInput(attrs={"type": "datetime-local"}, format="%Y-%m-%dT%H:%M"),
            "body": forms.Textarea(attrs={"rows": 8, "data-count-words": ""}),
        }

    def clean_happened_at(self):
        happened_at = self.cleaned_data["happened_at"]
        if happened_at > timezone.now() + CLOCK_DRIFT:
            raise forms.ValidationError("A logbook tells what has happened: this is in the future.")
        return happened_at

    def save(self):
        entry = super().save()
        entry.tags.set([Tag.objects.get_or_create(name=name)[0] for name in self.cleaned_data["tags"]])
        return entry
