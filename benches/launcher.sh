#!/bin/sh
# What the launcher costs at a start: it against the program itself and against a shell.
#
#   benches/launcher.sh [ROUNDS]
#
# The launcher is the one that forge puts into images. The rounds take turns; medians, in microseconds.
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-3000}
command -v python3 >/dev/null || { echo "benches/launcher.sh: needs python3" >&2; exit 1; }
cargo build --release --locked --quiet
launcher=$(find target/release/build -name forge-launcher -type f -printf '%T@ %p\n' | sort -n | tail -1 | cut -d' ' -f2)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/layers/config" "$work/app"
cp "$launcher" "$work/launcher"
{
    for type in web worker clock release; do
        printf '[[processes]]\ntype = "%s"\ncommand = ["/bin/true"]\ndirect = true\n' "$type"
    done
    printf '[forge]\nsecrets = ["DATABASE_URL", "SECRET_KEY"]\n[forge.defaults]\nMALLOC_ARENA_MAX = "2"\n'
} > "$work/layers/config/metadata.toml"
python3 - "$work" "$rounds" <<'P'
import os, statistics, sys, time
work, rounds = sys.argv[1], int(sys.argv[2])
environment = {"PATH": "/usr/bin:/bin", "CNB_LAYERS_DIR": work + "/layers", "CNB_APP_DIR": work + "/app"}
ways = {
    "the program": ["/bin/true"],
    "launcher": [work + "/launcher", "web"],
    "sh -c exec": ["/bin/sh", "-c", "exec /bin/true"],
}
times = {name: [] for name in ways}
for _ in range(rounds):
    for name, words in ways.items():
        begin = time.perf_counter_ns()
        pid = os.posix_spawn(words[0], words, environment)
        os.waitpid(pid, 0)
        times[name].append((time.perf_counter_ns() - begin) / 1000)
base = statistics.median(times["the program"])
print(f"launcher of {os.path.getsize(work + '/launcher')} bytes, {rounds} rounds")
print(f"{'':<14}{'median':>10}{'more':>10}{'10 %':>10}{'90 %':>10}")
for name, taken in times.items():
    taken.sort()
    median = statistics.median(taken)
    tenth = len(taken) // 10
    print(f"{name:<14}{median:>10.0f}{median - base:>10.0f}{taken[tenth]:>10.0f}{taken[-tenth]:>10.0f}")
P
