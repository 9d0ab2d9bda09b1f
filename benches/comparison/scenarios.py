"""The order of builds: for each app, rounds; in a round, scenarios; in a scenario, the tools in turns.

```text
cold        no state of the tool, nothing of the app in the registry; the peers' base image is not here yet
base        forge alone: cold, but its base is known, as an app with the same one was built here before
nothing     once more
template    a line in a template
code        a line in a module of the app
dependency  one small package or gem in another version
fresh       no state of the tool, the registry has what was pushed; nothing changed
```

All are build and push. What is not timed: daemons' starts, clearing, and what buildah needs a build of its own for to have
something in the registry for `fresh`. A tool whose build fails is noted, and is out until its next cold start.
"""

import os

from . import machine, meter

SCENARIOS = ("cold", "base", "nothing", "template", "code", "dependency", "fresh")
EDITS = ("template", "code", "dependency")


class Lane:
    """A tool's own copy of an app, and its home."""

    def __init__(self, tool, app, number):
        self.tool, self.app = tool, app
        self.image = f"{app.name}/{tool.name}-{number}:latest"
        self.folder = app.copy(tool.host.path("copies") / f"{app.name}-{tool.name}-{number}")
        self.home = tool.new_home(app)
        self.broken = False

    def open(self):
        self.tool.open(self.home)

    def drop(self):
        self.tool.drop(self.home)
        machine.remove(self.folder)


class Runner:
    """Runs scenarios, and gives each run as a row to `record`."""

    def __init__(self, registry, record):
        self.registry, self.record = registry, record
        self.number = 0

    def one(self, lane, scenario, number, home=None, image=None):
        """One timed build with push."""
        tool, app = lane.tool, lane.app
        image = image or lane.image
        row = {"app": app.name, "scenario": scenario, "tool": tool.name, "round": number}
        machine.say(f"{app.name}, {scenario}, {tool.name}")
        os.sync()
        before = self.registry.counters()
        try:
            cost = meter.measure(tool.group, lambda: tool.build(app, home or lane.home, lane.folder, image,
                                                                fresh=scenario == "fresh"))
        except machine.Failed as error:
            machine.say(f"failed: {error}")
            lane.broken = True
            self.record({**row, "error": str(error).strip().splitlines()[-1]})
            return
        sent, received, connections = (now - then for now, then in zip(self.registry.counters(), before))
        digest, size = self.registry.size(image)
        machine.say(f"    {cost.wall:.2f} s, {cost.processor:.2f} s of processors, {cost.memory / 1e6:.0f} MB, "
                    f"{sent / 1e6:.2f} MB sent, {received / 1e6:.2f} MB received")
        self.record({**row, "wall_s": cost.wall, "cpu_s": cost.processor, "memory_bytes": cost.memory, "sent_bytes": sent,
                     "received_bytes": received, "connections": connections, "image_bytes": size, "digest": digest})

    def with_base(self, lane, number):
        """forge's cold build where its base is known."""
        tool, app = lane.tool, lane.app
        self.number += 1
        other = Lane(tool, app, f"base-{self.number}")
        try:
            tool.know_base(app, other.home)
            self.one(other, "base", number)
        finally:
            other.drop()

    def fresh(self, lane, number):
        """A runner that starts empty."""
        tool, app = lane.tool, lane.app
        tool.before_fresh(app, lane.home, lane.folder, lane.image)
        tool.close(lane.home)
        home = tool.new_home(app)
        try:
            tool.open(home)
            self.one(lane, "fresh", number, home=home)
        finally:
            tool.drop(home)
        tool.open(lane.home)

    def app(self, app, tools, scenarios, rounds, cold_rounds, check):
        """All rounds of one app. `check` is asked once about each lane's image at the end of the first round."""
        lanes = []
        try:
            for number in range(1, rounds + 1):
                machine.say(f"{app.name}: round {number} of {rounds}")
                turn = (number - 1) % len(tools)
                if number <= max(cold_rounds, 1):
                    while lanes:
                        lanes.pop().drop()
                    for tool in tools:
                        self.number += 1
                        lanes.append(Lane(tool, app, self.number))
                    ordered = lanes[turn:] + lanes[:turn]
                    for lane in ordered:
                        lane.open()
                        # Unasked for, it is what the others start from, and its times are nobody's.
                        self.one(lane, "cold" if "cold" in scenarios else "warm-up", number)
                ordered = lanes[turn:] + lanes[:turn]
                for scenario in SCENARIOS[1:]:
                    if scenario not in scenarios:
                        continue
                    for lane in ordered:
                        if lane.broken:
                            continue
                        if scenario == "base":
                            if lane.tool.name == "forge" and number <= cold_rounds:
                                self.with_base(lane, number)
                        elif scenario == "fresh":
                            self.fresh(lane, number)
                        else:
                            if scenario in EDITS:
                                app.edit(scenario, lane.folder, number)
                            self.one(lane, scenario, number)
                if number == 1:
                    edits = [edit for edit in EDITS if edit in scenarios]
                    check(app, [lane for lane in lanes if not lane.broken], edits)
        finally:
            while lanes:
                lanes.pop().drop()
