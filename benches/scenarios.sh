#!/bin/sh
# Times whole builds of the Django example, and prints a table in tab-separated
# values: scenario, median, lowest and highest wall time in seconds, highest
# resident memory in MB. Every build is a real one; the downloads' speed is in the
# cold ones. Usage: benches/scenarios.sh [ROUNDS]
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-5}
cargo build --release --locked --quiet
forge=$(pwd)/target/release/forge
work=$(mktemp -d)
trap 'chmod -R u+rwX "$work"; rm -rf "$work"' EXIT
cp -r examples/django-logbook "$work/app"

# One build; its time and memory are added to a scenario's list.
once() {
    /usr/bin/env time -f '%e %M' -o "$work/time" "$forge" --store "$work/store" --progress none build "$work/app" >/dev/null
    cat "$work/time" >> "$work/$1"
}

for round in $(seq "$rounds"); do
    chmod -R u+rwX "$work/store" 2>/dev/null || true
    rm -rf "$work/store" "$work/app/forge.lock"
    once cold
    once nothing_changed
    echo "<!-- $round -->" >> "$work/app/templates/base.html"
    once template_edited
    echo "/* $round */" >> "$work/app/static/css/logbook.css"
    once stylesheet_edited
    # With the lock and without the store: another machine, the same image.
    chmod -R u+rwX "$work/store"
    rm -rf "$work/store"
    once cold_with_lock
done

printf 'scenario\tmedian_s\tlow_s\thigh_s\tpeak_mb\n'
for scenario in cold cold_with_lock nothing_changed template_edited stylesheet_edited; do
    sort -n "$work/$scenario" | awk -v name="$scenario" '
        { time[NR] = $1; if ($2 > peak) peak = $2 }
        END { printf "%s\t%.2f\t%.2f\t%.2f\t%d\n", name, time[int((NR + 1) / 2)], time[1], time[NR], peak / 1000 }'
done
