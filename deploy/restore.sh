#!/bin/bash
# Brings back what backup.sh wrote, as root, on a host where install.sh has run: restore.sh DIR/asynch-<time>
#
# What is there now is set aside, not deleted: the database as asynch_before_<time>, files and configuration as
# *.before-<time>. Calls that ran at the time of the backup run again.
set -euo pipefail
umask 077

backup=$(realpath -e "${1:?restore.sh: the backup is missing}")
data=/var/lib/asynch config=/etc/asynch/config.yml
now=$(date -u +%Y%m%dT%H%M%SZ)
cd /

as_postgres() { runuser -u postgres -- "$@"; }
as_asynch() { runuser -u asynch -- "$@"; }

(cd "$backup" && sha256sum --quiet --check SHA256SUMS)
mapfile -t units < <(find /etc/systemd/system/*.wants -name 'asynch-*.service' -printf '%f\n')
systemctl stop asynch-api 'asynch-worker@*'

if [[ $(as_postgres psql -qAt -c "SELECT count(*) FROM pg_database WHERE datname = 'asynch'") == 1 ]]; then
    as_postgres psql -qAt -c "ALTER DATABASE asynch RENAME TO \"asynch_before_$now\""
fi
as_postgres createdb --owner asynch --encoding UTF8 --template template0 asynch
as_postgres pg_restore --exit-on-error --no-owner --role=asynch --dbname asynch <"$backup/database"

[[ ! -e $config ]] || mv "$config" "$config.before-$now"
install -o root -g asynch -m 640 "$backup/config.yml" "$config"

[[ ! -e $data/files ]] || mv "$data/files" "$data/files.before-$now"
[[ ! -e $backup/files.tar ]] || as_asynch tar -C "$data" -xf - <"$backup/files.tar"

as_asynch asynch migrate --config "$config"
as_asynch asynch check --config "$config"
[[ ${#units[@]} == 0 ]] || systemctl start "${units[@]}"
echo "restore.sh: done"
