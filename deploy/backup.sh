#!/bin/bash
# Writes DIR/asynch-<time>/ while everything runs, as root: backup.sh DIR
#
# The database first, then the results: a result is stored before its row says so, so each row of the dump finds its
# file. What is younger than the dump is a file without a row, which costs space and nothing else. The configuration
# goes along because of secrets.keys: whoever has this directory has all credentials. tmp_dir is left out: an answer
# that was not uploaded yet is asked for again, a received file that was not stored yet is lost with its host.
set -euo pipefail
umask 077

target=$(realpath -m "${1:?backup.sh: the directory is missing}")/asynch-$(date -u +%Y%m%dT%H%M%SZ)
data=/var/lib/asynch
cd /
mkdir -p "$target.part"

runuser -u postgres -- pg_dump --format=custom asynch >"$target.part/database"
cp -p /etc/asynch/config.yml "$target.part/"
if [[ -d $data/files ]]; then
    # 1: a result that was deleted meanwhile, after its time
    tar -C "$data" --exclude=files/.parts --warning=no-file-changed --warning=no-file-removed \
        -cf "$target.part/files.tar" files || [[ $? == 1 ]]
fi
(cd "$target.part" && sha256sum ./* >SHA256SUMS)
sync -f "$target.part"
mv "$target.part" "$target"
echo "$target"
