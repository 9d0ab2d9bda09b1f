import logging
import os
import select
import signal

from django.core.management.base import BaseCommand
from django.db import InterfaceError, OperationalError, connection

from journal import jobs

log = logging.getLogger("journal.worker")


class StopSignal:
    """Notes SIGTERM and SIGINT; nothing is interrupted but the wait between jobs.

    A pipe wakes the wait up. An Event would not do: its lock may be held when the handler runs.
    """

    def __init__(self):
        self.received = False

    def __enter__(self):
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_):
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self._reader)
        os.close(self._writer)

    def _note(self, number, frame):
        if not self.received:
            self.received = True
            os.write(self._writer, b"!")

    def wait(self, seconds):
        """Return after this time, or at once when a signal comes or has come."""
        select.select([self._reader], [], [], seconds)


class Command(BaseCommand):
    help = "Runs queued jobs until SIGTERM, which lets the job at hand finish."

    def add_arguments(self, parser):
        parser.add_argument("--once", action="store_true", help="stop when nothing is left to do")
        parser.add_argument(
            "--pause", type=float, default=1.0, metavar="SECONDS", help="between two looks at an empty queue",
        )

    def handle(self, *, once, pause, **options):
        count = 0
        with StopSignal() as stop:
            log.info("worker %d started", os.getpid())
            while not stop.received:
                try:
                    worked = jobs.run_next() is not None
                except (OperationalError, InterfaceError) as error:
                    if once:
                        raise
                    log.warning("the database does not answer: %s", str(error).strip())
                    connection.close()  # the next look opens a new one
                    worked = False
                count += worked
                if not worked:
                    if once:
                        break
                    stop.wait(pause)
        log.info("worker %d stopped, jobs run: %d", os.getpid(), count)
