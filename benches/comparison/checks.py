"""Whether the images are images: each is pulled and started once, by a Docker daemon that no tool built with.

The web process must answer `/up`, and the edits of the first round must be in the image.
"""

import urllib.error
import urllib.request

from . import machine
from .registry import OPENER


def answered(port):
    try:
        with OPENER.open(f"http://127.0.0.1:{port}/up", timeout=5) as answer:
            return answer.status == 200
    except (OSError, urllib.error.URLError):
        return False


class Checker:
    """Checks lanes' images, and notes what it found as rows for `record`."""

    def __init__(self, host, docker, registry, record):
        self.host, self.docker, self.registry, self.record = host, docker, registry, record

    def __call__(self, app, lanes, edits):
        if not lanes:
            return
        home = self.host.path("homes", "check")
        self.docker.open(home)
        client = ["docker", "--config", self.host.path("docker-client"), "--host", f"unix://{self.docker.socket(home)}"]
        try:
            for lane in lanes:
                try:
                    found = self.one(app, [*client], f"{self.registry.address}/{lane.image}", edits)
                except machine.Failed as error:
                    found = f"failed: {str(error).strip().splitlines()[-1]}"
                machine.say(f"{app.name}, image of {lane.tool.name}: {found}")
                self.record({"app": app.name, "tool": lane.tool.name, "image": lane.image, "found": found})
        finally:
            self.docker.drop(home)

    def one(self, app, client, image, edits):
        machine.run([*client, "pull", "--quiet", image])
        for edit in edits:
            if edit == "dependency":
                version = machine.run([*client, "run", "--rm", "--network=host", image, *app.version()]).strip()
                if version != app.bumped_to(1):
                    raise machine.Failed(f"has {version} of what was bumped to {app.bumped_to(1)}")
            else:
                file, comment = getattr(app, edit)
                machine.run([*client, "run", "--rm", "--network=host", image, "grep", "-qxF", comment % 1, file])
        port = machine.free_port()
        words = [word for value in (*app.environment, f"PORT={port}") for word in ("--env", value)]
        name = machine.run([*client, "run", "--detach", "--network=host", *words, image]).strip()
        try:
            machine.wait("an answer of the web process", lambda: answered(port))
        except machine.Failed as error:
            logs = machine.run([*client, "logs", name])
            raise machine.Failed(f"{logs[-2000:]}\n{error}") from None
        finally:
            machine.run([*client, "rm", "--force", name])
        return "starts and answers; the edits are in it" if edits else "starts and answers"
