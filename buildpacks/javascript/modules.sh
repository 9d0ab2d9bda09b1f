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
case $1-$2 in
fetch-npm)
    npm ci --ignore-scripts --include=dev --no-audit --no-fund --no-update-notifier --cache /tmp/npm --loglevel=error
    mkdir -p "$kept/_cacache"
    node /forge/stable.mjs npm /tmp/npm/_cacache "$kept/_cacache"
    ;;
install-npm | production-npm)
    # npm writes into its cache.
    cp -r "$kept" /tmp/npm
    case $1 in install) which=--include=dev ;; *) which=--omit=dev ;; esac
    node /forge/stable.mjs lock npm-shrinkwrap.json package-lock.json
    npm ci --offline $which --no-audit --no-fund --no-update-notifier --cache /tmp/npm --loglevel=error
    ;;
fetch-yarn)
    export YARN_YARN_OFFLINE_MIRROR=$kept
    yarn install --frozen-lockfile --ignore-scripts --production=false --non-interactive --no-progress --cache-folder /tmp/yarn
    ;;
install-yarn | production-yarn)
    export YARN_YARN_OFFLINE_MIRROR=$kept
    case $1 in install) which=--production=false ;; *) which=--production=true ;; esac
    yarn install --frozen-lockfile --offline $which --non-interactive --no-progress --cache-folder /tmp/yarn
    ;;
fetch-berry)
    export YARN_ENABLE_GLOBAL_CACHE=false YARN_CACHE_FOLDER=$kept YARN_ENABLE_TELEMETRY=0
    yarn install --immutable --mode=skip-build
    ;;
install-berry)
    cp -r "$kept" /tmp/berry
    export YARN_ENABLE_GLOBAL_CACHE=false YARN_CACHE_FOLDER=/tmp/berry YARN_ENABLE_TELEMETRY=0 YARN_ENABLE_NETWORK=0
    yarn install --immutable --immutable-cache --inline-builds
    ;;
production-berry)
    cp -r "$kept" /tmp/berry
    export YARN_ENABLE_GLOBAL_CACHE=false YARN_CACHE_FOLDER=/tmp/berry YARN_ENABLE_TELEMETRY=0 YARN_ENABLE_NETWORK=0
    yarn workspaces focus --all --production
    ;;
fetch-pnpm)
    pnpm fetch --store-dir "$kept"
    node /forge/stable.mjs pnpm "$kept"
    ;;
install-pnpm | production-pnpm)
    cp -r "$kept" /tmp/pnpm
    case $1 in install) which=--prod=false ;; *) which=--prod ;; esac
    pnpm install --offline --frozen-lockfile $which --store-dir /tmp/pnpm --config.package-import-method=copy
    ;;
esac
if [ "$1" != fetch ]; then
    # What the tools note for themselves differs each time.
    rm -f node_modules/.yarn-integrity node_modules/.modules.yaml node_modules/.pnpm-workspace-state*.json
    find . -path '*/node_modules/*' \( -path '*/build/*' -a \( -name '*.o' -o -name '*.d' -o -name Makefile -o -name config.gypi \) \) -delete
    # A workspace without any module has nothing else.
    mkdir -p node_modules
fi
