#!/bin/sh
# Times pushes and pulls of an image of 300 MB (six layers, gzip) to and from docker's registry
# on this machine: forge, skopeo, and as a limit curl, which sends and fetches the same bytes of
# the same registry (four and six at once), makes sure that they are on the disk, and checks
# nothing. Each push goes to a registry that has nothing, each pull into an empty folder; the
# three take turns. Prints a table in tab-separated values, medians of all rounds. The rounds
# themselves go to FILE. Usage: benches/registry.sh [ROUNDS [FILE]]
set -eu
cd "$(dirname "$0")/.."
rounds=${1:-5}
for program in docker-registry skopeo curl; do
    if ! command -v "$program" >/dev/null; then
        echo "benches/registry.sh: needs $program" >&2
        exit 1
    fi
done
bench=$(cargo build --release --locked --bench registry --message-format json |
    sed -n 's/.*"name":"registry".*"executable":"\([^"]*\)".*/\1/p')
work=$(mktemp -d)
registry=""
stop() {
    if [ -n "$registry" ]; then
        kill "$registry"
        wait "$registry" 2>/dev/null || true
        registry=""
    fi
}
trap 'stop; rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
port=$((20000 + $$ % 20000))
host=127.0.0.1:$port
export host work bench

"$bench" make "$work/store" "$work/layout"
ls -S "$work/layout/blobs/sha256" > "$work/blobs"
bytes=$(cat "$work/layout/blobs/sha256/"* | wc -c)
digest=$(sed -n 's/.*"manifests":.*"digest":"\(sha256:[0-9a-f]*\)".*/\1/p' "$work/layout/index.json")

# A registry that has nothing.
start() {
    rm -rf "$work/registry" "$work/pulled"
    mkdir "$work/registry" "$work/pulled"
    printf 'version: 0.1\nlog:\n  level: error\n  accesslog:\n    disabled: true\nstorage:\n  filesystem:\n    rootdirectory: %s\nhttp:\n  addr: %s\n' \
        "$work/registry" "$host" > "$work/registry.yml"
    docker-registry serve "$work/registry.yml" > "$work/registry.log" 2>&1 &
    registry=$!
    tries=0
    until curl -sf --noproxy '*' "http://$host/v2/" >/dev/null; do
        tries=$((tries + 1))
        if [ "$tries" = 100 ]; then
            cat "$work/registry.log" >&2
            exit 1
        fi
        sleep 0.1
    done
}

forge_push() {
    "$bench" push "$work/store" "$host/bench/image:v1" >/dev/null
}
forge_pull() {
    "$bench" pull "$work/pulled/store" "$host/bench/image:v1" >/dev/null
}
skopeo_push() {
    skopeo --insecure-policy copy --quiet --dest-tls-verify=false "oci:$work/layout:bench" "docker://$host/bench/image:v1"
}
skopeo_pull() {
    skopeo --insecure-policy copy --quiet --src-tls-verify=false "docker://$host/bench/image:v1" "oci:$work/pulled/layout:v1"
}
curl_push() {
    xargs -P 4 -I '{}' sh -c '
        address=$(curl -sf --noproxy "*" -o /dev/null -X POST -H "Content-Length: 0" -w "%header{location}" "http://$host/v2/bench/image/blobs/uploads/")
        curl -sf --noproxy "*" -H "Expect:" -T "$work/layout/blobs/sha256/{}" "$address&digest=sha256:{}"' < "$work/blobs"
}
curl_pull() {
    sed "s|.*|url=\"http://$host/v2/bench/image/blobs/sha256:&\"\noutput=\"$work/pulled/&\"|" "$work/blobs" |
        curl -sf --no-progress-meter --noproxy "*" --parallel --parallel-max 6 -K -
    sync "$work/pulled/"*
}

# Adds milliseconds to a list.
once() {
    sync
    begin=$(date +%s%N)
    "$1"
    end=$(date +%s%N)
    echo $(((end - begin) / 1000000)) >> "$work/$1"
}

[ -z "${2:-}" ] || printf 'round\twhat\tmilliseconds\n' > "$2"
for round in $(seq "$rounds"); do
    # Who is first is another one each time.
    for turn in 0 1 2; do
        who=$(echo "forge skopeo curl" | cut -d ' ' -f $(((round + turn) % 3 + 1)))
        start
        once "${who}_push"
        if [ "$who" != curl ]; then
            found=$(curl -sfI --noproxy '*' -H 'Accept: application/vnd.oci.image.manifest.v1+json' "http://$host/v2/bench/image/manifests/v1" |
                tr -d '\r' | sed -n 's/^[Dd]ocker-[Cc]ontent-[Dd]igest: //p')
            [ "$found" = "$digest" ] || { echo "benches/registry.sh: $who pushed $found, not $digest" >&2; exit 1; }
        fi
        once "${who}_pull"
        have=$(find "$work/pulled" -type f -size +1M -exec cat '{}' + | wc -c)
        [ "$have" -gt $((bytes - 1000000)) ] || { echo "benches/registry.sh: $who pulled $have bytes" >&2; exit 1; }
        stop
        if [ -n "${2:-}" ]; then
            for what in push pull; do
                printf '%s\t%s %s\t%s\n' "$round" "$who" "$what" "$(tail -n 1 "$work/${who}_$what")" >> "$2"
            done
        fi
    done
done

# Megabytes a second: median, lowest, highest.
speed() {
    sort -n "$work/$1" | awk -v bytes="$bytes" '
        { time[NR] = $1 }
        END { printf "%.0f\t%.0f\t%.0f", bytes / 1000 / time[int((NR + 1) / 2)], bytes / 1000 / time[NR], bytes / 1000 / time[1] }'
}
printf 'what\tforge_mb_s\tlow\thigh\tskopeo_mb_s\tlow\thigh\tcurl_mb_s\tlow\thigh\tforge_to_skopeo\n'
for what in push pull; do
    line="$(speed "forge_$what")	$(speed "skopeo_$what")	$(speed "curl_$what")"
    printf '%s\t%s\t%s\n' "$what" "$line" "$(echo "$line" | awk -F '\t' '{ printf "%.2f", $1 / $4 }')"
done
