import tempfile

from django.core.management import call_command
from django.test.runner import DiscoverRunner
from django.test.utils import override_settings


class Runner(DiscoverRunner):
    """Runs the tests with the static files collected, into a folder of their own, as in production."""

    def setup_test_environment(self, **kwargs):
        super().setup_test_environment(**kwargs)
        self.static_root = tempfile.TemporaryDirectory(prefix="logbook-static-")
        self.static_settings = override_settings(STATIC_ROOT=self.static_root.name)
        self.static_settings.enable()
        call_command("collectstatic", interactive=False, verbosity=0)

    def teardown_test_environment(self, **kwargs):
        self.static_settings.disable()
        self.static_root.cleanup()
        super().teardown_test_environment(**kwargs)
