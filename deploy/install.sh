#!/bin/bash
# Installs or upgrades asynch on a Debian or Ubuntu host, as root:
# install.sh [--workers N] [--public-url URL] [--extras broker,tracing] WHEEL
#
# The first run makes the user, the role and the database on this host's own Postgres, and /etc/asynch/config.yml;
# each run brings the wheel's version into place beside the former one, applies the schema, and restarts worker by
# worker, then the API. Without a network: PIP_NO_INDEX=1 PIP_FIND_LINKS=<directory of wheels>.
set -euo pipefail
umask 022

workers=1 public_url= extras=
while [[ ${1-} == --* ]]; do
    case $1 in
        --workers) workers=${2:?a number} ;;
        --public-url) public_url=${2:?a URL} ;;
        --extras) extras=${2:?names with commas between them} ;;
        *) echo "install.sh: unknown option $1" >&2; exit 2 ;;
    esac
    shift 2
done
wheel=$(realpath -e "${1:?install.sh: the wheel is missing}")
here=$(dirname "$(realpath "${BASH_SOURCE[0]}")")
config=/etc/asynch/config.yml
former=$(readlink /opt/asynch || true)
cd /

say() { echo "install.sh: $*"; }
refuse() { say "$*" >&2; exit 2; }
asynch() { runuser -u asynch -- "$release/bin/asynch" "$@" --config "$config"; }

check_host() {
    [[ $EUID == 0 ]] || refuse "must run as root"
    [[ $workers =~ ^[1-9][0-9]*$ ]] || refuse "--workers $workers: expected a number from 1"
    [[ $extras =~ ^[a-z,]*$ ]] || refuse "--extras $extras: expected names with commas between them"
    [[ ! -e /opt/asynch || -L /opt/asynch ]] || refuse "/opt/asynch is no link of mine: move it away first"
    getent passwd postgres >/dev/null || [[ -e $config ]] ||
        refuse "no Postgres here (apt install postgresql); with one elsewhere, write $config first"
    python3 -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' ||
        refuse "needs python3 >= 3.11 with venv (apt install python3-venv)"
}

# A release of its own beside the running one: what runs keeps its files, and going back is a link.
make_release() {
    local name
    name=$(basename "$wheel" | cut -d- -f2)-$(sha256sum "$wheel" | cut -c1-8)${extras:+-${extras//,/-}}
    release=/opt/asynch-$name
    if [[ ! -e $release/complete ]]; then
        rm -rf "$release"
        python3 -m venv "$release"
        "$release/bin/pip" install --quiet --disable-pip-version-check "$wheel${extras:+[$extras]}"
        touch "$release/complete"
    fi
    say "release $release"
}

make_user() {
    install -D -m 644 "$here/asynch.sysusers" /usr/lib/sysusers.d/asynch.conf
    install -D -m 644 "$here/asynch.tmpfiles" /usr/lib/tmpfiles.d/asynch.conf
    systemd-sysusers asynch.conf
    systemd-tmpfiles --create asynch.conf
}

as_postgres() { runuser -u postgres -- "$@"; }

# Only where the configuration names this host's own database, or is not there yet.
make_database() {
    [[ ! -e $config ]] || grep -q 'postgresql:///asynch?host=/run/postgresql' "$config" || return 0
    systemctl start postgresql
    timeout 60 bash -c 'until runuser -u postgres -- pg_isready --quiet; do sleep 0.5; done' ||
        refuse "this host's Postgres does not start"
    [[ $(as_postgres psql -qAt -c "SELECT count(*) FROM pg_roles WHERE rolname = 'asynch'") == 1 ]] ||
        as_postgres createuser asynch
    [[ $(as_postgres psql -qAt -c "SELECT count(*) FROM pg_database WHERE datname = 'asynch'") == 1 ]] ||
        as_postgres createdb --owner asynch --encoding UTF8 --template template0 asynch
}

make_config() {
    [[ ! -e $config ]] || return 0
    local key port
    port=$(as_postgres psql -qAt -c 'SHOW port')
    key=$("$release/bin/python" -c 'from cryptography.fernet import Fernet; print(Fernet.generate_key().decode())')
    (umask 077 && cat >"$config.new" <<END)
# Every key is explained in /opt/asynch/lib/python3*/site-packages/asynch/config.yml. After a change: systemctl restart asynch-api 'asynch-worker@*'
data_dir: /var/lib/asynch
database: {dsn: "postgresql:///asynch?host=/run/postgresql&port=$port"}  # as the system's user asynch, without a password
server: {public_url: "$public_url", trusted_proxies: [127.0.0.1]}
auth: {mode: apikey}
egress: {deny: [127.0.0.0/8, "::1/128"]}  # behind a proxy, tenants are not to call what listens on this host only
secrets: {keys: ["$key"]}  # whoever has it can read the models' credentials; without it nobody can
END
    chown root:asynch "$config.new"
    chmod 640 "$config.new"
    mv "$config.new" "$config"
    say "wrote $config"
}

# Before anything of the old version is touched: both versions work on the new schema.
prepare() {
    asynch migrate
    asynch check
}

switch() {
    install -m 644 "$here/asynch-api.service" "$here/asynch-worker@.service" /etc/systemd/system/
    systemctl daemon-reload
    ln -sfn "$release" /opt/asynch.new
    mv -T /opt/asynch.new /opt/asynch
    ln -sfn /opt/asynch/bin/asynch /usr/local/bin/asynch
}

# Each restart waits for the drain of the old process, then until the new one is ready.
restart() {
    local unit
    mapfile -t units < <({
        systemctl list-units --all --plain --no-legend 'asynch-worker@*.service' | cut -d' ' -f1
        seq -f 'asynch-worker@%g.service' "$workers"
    } | sort -uV)
    for unit in "${units[@]}" asynch-api.service; do
        systemctl --quiet enable "$unit"
        systemctl restart "$unit"
        say "$unit is ready"
    done
}

# The one before stays, to go back to: install.sh with its wheel, or the link.
forget_old() {
    [[ -n $former && $former != "$release" ]] || return 0
    local old
    for old in /opt/asynch-*/; do
        [[ ${old%/} == "$release" || ${old%/} == "$former" ]] || rm -rf "${old%/}"
    done
}

check_host
make_release
make_user
make_database
make_config
prepare
switch
restart
forget_old
say "done"
