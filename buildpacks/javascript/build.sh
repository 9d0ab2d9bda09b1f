# Runs the `build` script of package.json with the app's package manager.
case $1 in
berry) exec yarn run build ;;
*) exec "$1" run build ;;
esac
