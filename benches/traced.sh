#!/bin/bash
# What recording reads costs, and what it saves. Prints tab-separated values: for each app the
# median wall time, in seconds, of a build after an edit of a file that its traced step does not
# read, with and without recording; the median time of the step itself, recorded and not
# recorded, and their ratio; and how large a path set is. All in turns; every build is a real one.
#
# Usage: benches/traced.sh [ROUNDS [FOLDER:STEP:UNREAD:READ]...]
# UNREAD and READ are files of the app: one that the step does not read, and one that it does.
# The Rails example needs a gem server (BUNDLE_MIRROR__ALL): see its README.
set -euo pipefail
cd "$(dirname "$0")/.."
rounds=${1:-5}
shift || true
if [ $# -eq 0 ]; then
    set -- examples/django-logbook:collectstatic:journal/views.py:journal/models.py \
        tests/apps/tailwind:javascript-build:server.js:theme.js \
        tests/apps/webpack:javascript-build:src/unused.js:src/board.js
fi
cargo build --release --locked --quiet
forge=${CARGO_TARGET_DIR:-$(pwd)/target}/release/forge
work=$(mktemp -d)
trap 'chmod -R u+rwX "$work"; rm -rf "$work"' EXIT

# A comment that its language knows.
comment() {
    case $1 in
    *.rb | *.py) echo "# $2" ;;
    *.html | *.erb) echo "<!-- $2 -->" ;;
    *.css) echo "/* $2 */" ;;
    *) echo "// $2" ;;
    esac
}

# One build of an edited app: wall time, and the step's own time when it ran.
# once NAME FOLDER STEP FILE TEXT [OPTION]
once() {
    comment "$4" "$5" >> "$work/$2/$4"
    /usr/bin/env time -f '%e' -o "$work/time" \
        "$forge" --store "$work/store" --json build "$work/$2" ${6:-} > "$work/events"
    cat "$work/time" >> "$work/$2.$1.wall"
    sed -n "s/.*\"event\":\"step_finished\",\"step\":\"$3\",\"milliseconds\":\([0-9]*\).*/\1/p" "$work/events" \
        | tail -n 1 >> "$work/$2.$1.step"
}

# The middle value of a list; nothing for an empty one.
median() { sort -n "$1" | awk '{ value[NR] = $1 } END { if (NR) print value[int((NR + 1) / 2)] }'; }

printf 'app\tfiles_given\tfiles_read\tpath_set_bytes\tunread_edit_traced_s\tunread_edit_whole_s\tstep_traced_s\tstep_whole_s\tratio\n'
for spec in "$@"; do
    IFS=: read -r folder step unread file <<< "$spec"
    app=$(basename "$folder")
    cp -r "$folder" "$work/$app"
    "$forge" --store "$work/store" --progress none build "$work/$app" > /dev/null
    for round in $(seq "$rounds"); do
        once read.whole "$app" "$step" "$file" "read whole $round" --no-trace
        # Its recording is what the next one is reused by.
        once read.traced "$app" "$step" "$file" "read $round"
        once unread.traced "$app" "$step" "$unread" "unread $round"
        once unread.whole "$app" "$step" "$unread" "unread whole $round" --no-trace
    done
    once read.traced "$app" "$step" "$file" "once more"
    "$forge" --store "$work/store" plan "$work/$app" "--files=$step" > "$work/files"
    read=$(grep -c '^r ' "$work/files" || true)
    given=$(grep -c '^[r+] ' "$work/files" || true)
    bytes=$(sed -n 's/^r \([^ ]*\).*/\1/p' "$work/files" | wc -c)
    traced=$(median "$work/$app.read.traced.step")
    whole=$(median "$work/$app.read.whole.step")
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$app" "$given" "$read" "$bytes" \
        "$(median "$work/$app.unread.traced.wall")" "$(median "$work/$app.unread.whole.wall")" \
        "$(awk -v traced="$traced" -v whole="$whole" 'BEGIN { printf "%.3f\t%.3f\t%.2f", traced / 1000, whole / 1000, traced / whole }')"
done
