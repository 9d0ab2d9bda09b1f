import os
import subprocess
import sys
from unittest import mock

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.test import SimpleTestCase

from logbook import env


class DatabaseTest(SimpleTestCase):
    def check(self, url, name="", user="", password="", host="", port="", **options):
        found = env.database(url)
        self.assertEqual(
            [found[key] for key in ["NAME", "USER", "PASSWORD", "HOST", "PORT", "OPTIONS"]],
            [name, user, password, host, port, options],
        )

    def test_accepted(self):
        self.check("postgres://mate:pw@db:5433/log", "log", "mate", "pw", "db", "5433")
        self.check("postgresql://mate:p%40%2F%3A@db/log", "log", "mate", "p@/:", "db")
        self.check("postgres://db/log?sslmode=require", "log", host="db", sslmode="require")
        self.check("postgres://mate@/log?host=/run/pg&port=5434", "log", "mate", host="/run/pg", port="5434")
        self.check("postgres://[::1]/log", "log", host="::1")
        self.check("postgres:///log", "log")
        self.check("postgres://none", host="none")

    def test_refused_without_showing_it(self):
        for url in [
            "mysql://mate:hush@db/log",
            "db/log?hush",
            "postgres://mate:hu[sh@db/log",
            "postgres://mate:hush@db:port/log",
        ]:
            with self.subTest(url=url), self.assertRaisesMessage(ImproperlyConfigured, "DATABASE_URL") as refusal:
                env.database(url)
            self.assertNotIn("hu", str(refusal.exception))


class VariablesTest(SimpleTestCase):
    def test_flag(self):
        for text, value in [("", False), ("0", False), ("False", False), ("1", True), ("on", True)]:
            with self.subTest(text=text), mock.patch.dict(os.environ, SWITCH=text):
                self.assertIs(env.flag("SWITCH"), value)
        with mock.patch.dict(os.environ, SWITCH="maybe"), self.assertRaisesMessage(ImproperlyConfigured, "SWITCH"):
            env.flag("SWITCH")

    def test_words(self):
        with mock.patch.dict(os.environ, NAMES=" a.example, b.example,"):
            self.assertEqual(env.words("NAMES"), ["a.example", "b.example"])
        self.assertEqual(env.words("NO_SUCH_NAMES", "localhost"), ["localhost"])

    def test_required_by_the_settings(self):
        for name in ["SECRET_KEY", "DATABASE_URL"]:
            with self.subTest(name=name):
                run = subprocess.run(
                    [sys.executable, "manage.py", "check"],
                    cwd=settings.BASE_DIR,
                    env={key: value for key, value in os.environ.items() if key != name},
                    capture_output=True,
                    text=True,
                )
                self.assertNotEqual(run.returncode, 0)
                self.assertIn(f"ImproperlyConfigured: the environment variable {name} is not set", run.stderr)
