"""Settings from the environment: text in, values out, a clear refusal otherwise.

A refusal names the variable and never shows its value, which may hold a password.
"""

import os
from urllib.parse import parse_qsl, unquote, urlsplit

from django.core.exceptions import ImproperlyConfigured


def required(name, hint):
    """The variable's text; without it the application does not start."""
    value = os.environ.get(name, "").strip()
    if not value:
        raise ImproperlyConfigured(f"the environment variable {name} is not set: {hint}")
    return value


def flag(name):
    """Whether a switch is on. Off when unset."""
    value = os.environ.get(name, "").strip().lower()
    if value in ("", "0", "false", "no", "off"):
        return False
    if value in ("1", "true", "yes", "on"):
        return True
    raise ImproperlyConfigured(f"the environment variable {name} is neither on (1) nor off (0)")


def words(name, default=""):
    """A list separated by commas."""
    return [word.strip() for word in os.environ.get(name, default).split(",") if word.strip()]


def database(url):
    """Django's settings for `postgres://user:password@host:port/name?sslmode=require`.

    Every part but the scheme may be missing; libpq then applies its own defaults. What follows
    the question mark goes to libpq as it is, so `?host=/run/postgresql` means a socket.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise ImproperlyConfigured(
            "DATABASE_URL is not a URL: are the special characters of the password escaped, as in %40 for @?"
        ) from None
    if parts.scheme not in ("postgres", "postgresql"):
        raise ImproperlyConfigured("DATABASE_URL does not start with postgres://: the worker needs PostgreSQL")
    options = dict(parse_qsl(parts.query))
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.removeprefix("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": options.pop("host", parts.hostname or ""),
        "PORT": options.pop("port", str(port or "")),
        "OPTIONS": options,
        "CONN_MAX_AGE": 60,
        "CONN_HEALTH_CHECKS": True,
    }
