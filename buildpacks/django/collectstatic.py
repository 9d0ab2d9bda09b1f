"""Runs `manage.py collectstatic`, and says what its outcome means for the image.

An argument `compress` runs django-compressor's command after it.
"""

import os
import runpy
import sys

# What the step keeps; see its outputs.
KEPT = ("/workspace/", "/srv/", "/var/www/", "/usr/share/nginx/", "/static/")


def manage(*arguments):
    sys.argv = ["manage.py", *arguments]
    sys.path.insert(0, os.getcwd())
    try:
        runpy.run_path("manage.py", run_name="__main__")
    except SystemExit as end:
        return end.code or 0
    return 0


def files():
    return {os.path.join(folder, name) for folder, _, names in os.walk("/workspace") for name in names}


def clean(before, settings):
    """Settings may write when they are loaded: a random secret key, a log. None of it belongs into an image."""
    kept = [
        os.path.abspath(root) + "/"
        for root in (settings.STATIC_ROOT, getattr(settings, "COMPRESS_ROOT", None))
        if root
    ]
    for path in sorted(files() - before):
        if not path.startswith(tuple(kept)):
            os.unlink(path)
            print(f"forge:notice: loading the app wrote `{path}`; that is not kept in the image")


def main():
    if not os.environ.get("DJANGO_SETTINGS_MODULE"):
        os.environ.pop("DJANGO_SETTINGS_MODULE", None)
    if os.environ.get("DISABLE_COLLECTSTATIC", "0") not in ("", "0"):
        print("DISABLE_COLLECTSTATIC is set: nothing collected")
        return 0
    before = files()
    status = manage("collectstatic", "--noinput", "--traceback")
    from django.apps import apps
    from django.conf import settings

    if status != 0:
        if not apps.ready or apps.is_installed("django.contrib.staticfiles"):
            return status
        print("django.contrib.staticfiles is not installed: nothing to collect")
        clean(before, settings)
        return 0
    if not settings.STATIC_ROOT:
        print("STATIC_ROOT is not set, and no static files were found: nothing to collect")
        clean(before, settings)
        return 0
    root = os.path.abspath(settings.STATIC_ROOT)
    if not (root + "/").startswith(KEPT) or root == "/workspace":
        print(f"forge: STATIC_ROOT is `{root}`, which is not kept from this step")
        return 1
    if COMPRESS:
        status = manage("compress", "--traceback")
    clean(before, settings)
    return status


COMPRESS = "compress" in sys.argv[1:]
sys.exit(main())
