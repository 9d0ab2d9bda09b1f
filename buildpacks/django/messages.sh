# Compiles each catalogue that has no compiled one beside it.
cd /workspace
find . -name '*.po' | sort > /tmp/catalogues
count=0
while read -r po; do
    mo="${po%.po}.mo"
    if [ ! -e "$mo" ]; then
        msgfmt --check-format -o "$mo" "$po"
        count=$((count + 1))
    fi
done < /tmp/catalogues
echo "$count catalogues compiled"
