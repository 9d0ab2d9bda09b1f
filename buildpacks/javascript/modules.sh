# Fetches the packages of the lock file with network, or installs them without.
#
#   modules.sh fetch|install|production npm|yarn|berry|pnpm
export CI=true
# Build tools are among the packages for development.
export NODE_ENV=development
kept=/opt/forge/modules
mkdir -p "$kept"
# Modules that compile find Node's headers here instead of downloading them.
export npm_config_nodedir=/layers/node
export YARN_ENABLE_GLOBAL_CACHE=false YARN_ENABLE_TELEMETRY=0

# Runs a command; what it printed is kept for a look afterwards.
logged() {
    if "$@" > /tmp/log 2>&1; then status=0; else status=$?; fi
    # npm explains its command line at length when a lock file is stale, and names a
    # log that nobody can read afterwards.
    sed '/^npm error Clean install a project/,/^npm error Run "npm help ci"/d; /^npm error A complete log/d' /tmp/log
    return $status
}

run_npm() {
    logged npm ci "$@" --no-audit --no-fund --no-update-notifier --cache /tmp/npm --loglevel=error \
        --fetch-retry-mintimeout=1000 --fetch-retry-maxtimeout=5000
}

# The registry that npm is set to use on this machine; nothing for the public one.
# Yarn does not ask npm's settings.
registry() {
    found=${npm_config_registry:-${NPM_CONFIG_REGISTRY:-}}
    if [ -z "$found" ]; then
        found=$(cat "$HOME/.npmrc" /etc/npmrc 2> /dev/null | sed -n 's/^registry *= *//p' | head -n 1)
    fi
    echo "${found%/}"
}

# The cache of Yarn 2 and later. Plug'n'Play runs from it, so then it is the app's.
berry_cache() {
    case $(yarn config get nodeLinker) in
    pnp) YARN_CACHE_FOLDER=$PWD/.yarn/cache ;;
    *) YARN_CACHE_FOLDER=/tmp/berry ;;
    esac
    export YARN_CACHE_FOLDER YARN_ENABLE_NETWORK=0
    mkdir -p "$YARN_CACHE_FOLDER"
    cp -r "$kept/." "$YARN_CACHE_FOLDER"
}

case $1-$2 in
fetch-npm)
    run_npm --ignore-scripts --include=dev
    mkdir -p "$kept/_cacache"
    node /forge/stable.mjs npm /tmp/npm/_cacache "$kept/_cacache"
    ;;
install-npm | production-npm)
    # npm writes into its cache.
    cp -r "$kept" /tmp/npm
    case $1 in install) which=--include=dev ;; *) which=--omit=dev ;; esac
    node /forge/stable.mjs lock npm-shrinkwrap.json package-lock.json
    run_npm --offline $which
    ;;
fetch-yarn)
    export YARN_YARN_OFFLINE_MIRROR=$kept
    # It asks the host that the lock file names.
    if [ -n "$(registry)" ]; then node /forge/stable.mjs hosts yarn.lock "$(registry)"; fi
    logged yarn install --frozen-lockfile --ignore-scripts --production=false --non-interactive --no-progress --cache-folder /tmp/yarn
    ;;
install-yarn | production-yarn)
    export YARN_YARN_OFFLINE_MIRROR=$kept
    case $1 in install) which=--production=false ;; *) which=--production=true ;; esac
    logged yarn install --frozen-lockfile --offline $which --non-interactive --no-progress --cache-folder /tmp/yarn
    ;;
fetch-berry)
    registry=$(registry)
    if [ -n "$registry" ] && ! grep -qs '^npmRegistryServer' .yarnrc.yml /workspace/.yarnrc.yml "$HOME/.yarnrc.yml"; then
        export YARN_NPM_REGISTRY_SERVER="$registry"
        case $registry in http:*) export YARN_UNSAFE_HTTP_WHITELIST='*' ;; esac
    fi
    # The usual names of a proxy mean nothing to it either.
    proxy=${http_proxy:-${HTTP_PROXY:-}}
    if [ -n "$proxy" ]; then export YARN_HTTP_PROXY="$proxy"; fi
    proxy=${https_proxy:-${HTTPS_PROXY:-}}
    if [ -n "$proxy" ]; then export YARN_HTTPS_PROXY="$proxy"; fi
    # Packages that are committed need not be fetched.
    if [ -d .yarn/cache ]; then cp -r .yarn/cache/. "$kept"; fi
    export YARN_CACHE_FOLDER=$kept
    logged yarn install --immutable --mode=skip-build
    rm -f "$kept/.gitignore"
    ;;
install-berry)
    berry_cache
    logged yarn install --immutable --immutable-cache --inline-builds
    ;;
production-berry)
    berry_cache
    if yarn workspaces focus --help > /dev/null 2>&1; then
        logged yarn workspaces focus --all --production
    else
        # Yarn 2 and 3 know it only as a plugin.
        node /forge/stable.mjs production
        YARN_ENABLE_IMMUTABLE_INSTALLS=false logged yarn install --inline-builds
    fi
    # With Plug'n'Play, the packages for development.
    for file in .yarn/cache/*.zip; do
        if [ -f .pnp.cjs ] && ! grep -qF "/${file##*/}/" .pnp.cjs; then rm -f "$file"; fi
    done
    ;;
fetch-pnpm)
    logged pnpm fetch --store-dir "$kept"
    node /forge/stable.mjs pnpm "$kept"
    ;;
install-pnpm | production-pnpm)
    cp -r "$kept" /tmp/pnpm
    case $1 in install) which=--prod=false ;; *) which=--prod ;; esac
    logged pnpm install --offline --frozen-lockfile $which --store-dir /tmp/pnpm --config.package-import-method=copy
    ;;
esac

if [ "$1" = install ]; then
    sed -n -E "$(printf '%s\n' \
        's/.*Ignored build scripts: ([^│]*[^│. ])\.? *(│.*)?$/forge:notice: pnpm left out install scripts, as package.json does not allow them (pnpm.onlyBuiltDependencies): \1/p' \
        's/.*YN000[45]: [│ ]*(.*) lists build scripts, but .*$/forge:notice: Yarn left out an install script, as the settings do not allow it (dependenciesMeta, enableScripts): \1/p')" /tmp/log
fi
if [ "$1" != fetch ]; then
    # What the tools note for themselves differs each time.
    rm -f node_modules/.package-lock.json node_modules/.yarn-integrity node_modules/.modules.yaml \
        node_modules/.pnpm-workspace-state*.json
    # What node-gyp leaves beside the module that it compiled.
    find . -path '*/node_modules/*/build/config.gypi' | while read -r config; do
        built=${config%/config.gypi}
        rm -rf "$built"/Makefile "$built"/*.mk "$built"/*.Makefile "$config" "$built"/deps "$built"/*/obj "$built"/*/obj.* \
            "$built"/*/.deps "$built"/*/*.a
    done
    # A workspace without any module has nothing else.
    mkdir -p node_modules
fi
