# Compiles one gem at its final path, without network.
export MAKEFLAGS="-j$(nproc)"
folder=/layers/gems/ruby/$(ruby -e 'print Gem.ruby_api_version')
export GEM_PATH="$folder:/tmp/needed"
install() {
    gem install --local --ignore-dependencies --no-document --install-dir "$1" "$2"
}
wanted=
for file in /opt/forge/gems/*.gem; do
    [ -e "$file" ] || continue
    case $(basename "$file" .gem) in
    "$1" | "$1"-*) wanted=$file ;;
    *)
        # What it needs to be compiled, unless a step of its own has made it.
        name=$(basename "$file" .gem)
        [ -e "$folder/specifications/$name.gemspec" ] || install /tmp/needed "$file" > /tmp/needed.log ||
            { cat /tmp/needed.log; exit 1; }
        ;;
    esac
done
if [ -z "$wanted" ]; then
    echo "$1 does not come as a file"
    exit 0
fi
install "$folder" "$wanted"
sh -eu /forge/clean.sh
