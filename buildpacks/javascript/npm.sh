# Fetches a Node with its npm, as a wheel by hash.
{
    printf '%s' "$NPM_WHEEL"
    for hash in $NPM_SHA256; do printf ' --hash=sha256:%s' "$hash"; done
    echo
} > /tmp/npm.txt
python3 -m pip install --quiet --disable-pip-version-check --no-cache-dir --no-compile --root-user-action=ignore \
    --no-deps --only-binary :all: --require-hashes --target /opt/forge/npm -r /tmp/npm.txt
