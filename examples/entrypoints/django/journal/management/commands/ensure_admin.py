"""Makes the account that DJANGO_SUPERUSER_USERNAME, _EMAIL and _PASSWORD name, unless it is there."""

import os

from django.contrib.auth import get_user_model
from django.core.management.base import BaseCommand, CommandError


class Command(BaseCommand):
    help = __doc__

    def handle(self, *args, **options):
        name = os.environ.get("DJANGO_SUPERUSER_USERNAME")
        if not name:
            self.stdout.write("DJANGO_SUPERUSER_USERNAME is not set: no account is made")
            return
        users = get_user_model()
        if users.objects.filter(username=name).exists():
            self.stdout.write(f"the account {name} is there")
            return
        password = os.environ.get("DJANGO_SUPERUSER_PASSWORD")
        if not password:
            raise CommandError("DJANGO_SUPERUSER_PASSWORD is not set")
        email = os.environ.get("DJANGO_SUPERUSER_EMAIL", "")
        users.objects.create_superuser(username=name, email=email, password=password)
        self.stdout.write(f"made the account {name}")
