import gzip
import json
from pathlib import Path

from django.conf import settings
from django.templatetags.static import static
from django.test import TestCase


class StaticTest(TestCase):
    """The files are collected by `logbook.testing.Runner`, with the storage of production."""

    def setUp(self):
        self.root = Path(settings.STATIC_ROOT)
        self.hashed = json.loads((self.root / "staticfiles.json").read_text())["paths"]

    def read(self, path, **headers):
        response = self.client.get(path, headers=headers)
        self.assertEqual(response.status_code, 200, path)
        return response, b"".join(response)

    def test_names_carry_a_hash(self):
        for name in ["css/logbook.css", "js/logbook.js", "img/logo.svg", "favicon.ico", "admin/css/base.css"]:
            with self.subTest(name=name):
                stem, suffix = name.rsplit(".", 1)
                self.assertRegex(self.hashed[name], rf"^{stem}\.[0-9a-f]{{12}}\.{suffix}$")
                self.assertTrue((self.root / self.hashed[name]).is_file())

    def test_css_refers_to_the_hashed_logo(self):
        _, css = self.read(static("css/logbook.css"))
        logo = self.hashed["img/logo.svg"].removeprefix("img/")
        self.assertIn(f'url("../img/{logo}")', css.decode())

    def test_page_refers_to_the_hashed_files(self):
        page = self.client.get("/")
        for name in ["css/logbook.css", "js/logbook.js", "favicon.ico"]:
            self.assertContains(page, f'"/static/{self.hashed[name]}"')

    def test_cached_for_ever_and_compressed(self):
        path = static("css/logbook.css")
        plain, css = self.read(path)
        self.assertIn("immutable", plain["Cache-Control"])
        packed, content = self.read(path, accept_encoding="gzip")
        self.assertEqual(packed["Content-Encoding"], "gzip")
        self.assertEqual(gzip.decompress(content), css)

    def test_favicon_by_its_plain_name(self):
        self.assertRedirects(self.client.get("/favicon.ico"), static("favicon.ico"), fetch_redirect_response=False)
