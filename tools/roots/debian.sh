# What the scripts of this folder share, to be sourced: messages, the folder .roots and its lock, and an apt of their own.
#
# Packages come from the Debian mirror that this machine's own apt uses (HEAPTAP_DEBIAN_MIRROR=URL overrides it), are
# checked with Debian's archive keyring, and are unpacked, not installed: apt keeps its state for this below .roots/apt,
# and the machine's own is not touched.
set -euo pipefail

script=tools/roots/${0##*/}
die() { echo "$script: $*" >&2; exit 1; }
say() { echo "$script: $*"; }

# run COMMAND...: quiet unless it fails; then its whole output and an error.
run() {
	local log
	log=$(mktemp)
	if ! "$@" >"$log" 2>&1; then
		cat "$log" >&2
		rm -f "$log"
		die "failed: $*"
	fi
	rm -f "$log"
}

# need TOOL...: all of them are there, or an error.
need() {
	local tool
	for tool; do
		command -v "$tool" >/dev/null || die "$tool is missing; a Debian or Ubuntu machine has it"
	done
}

[[ $(uname -s) == Linux ]] || die "needs Linux"
PATH=$PATH:/usr/sbin:/sbin
need apt-get dpkg dpkg-deb tar flock sha256sum
arch=$(dpkg --print-architecture)
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
[[ -r $keyring ]] || die "$keyring is missing: apt-get install debian-archive-keyring"

roots=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)/.roots
mkdir -p "$roots/apt"
exec 9>"$roots/apt/lock"
flock 9

# private NAME COMMAND...: apt with its own lists, state and cache under that name, an empty system, and all else
# (proxies, retries, what the machine allows of old mirrors) as the machine has it.
private() {
	local dir=$roots/apt/$1
	shift
	"$@" -q \
		-o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=/dev/null \
		-o Dir::Etc::preferences=/dev/null -o Dir::Etc::preferencesparts=/dev/null \
		-o Dir::State="$dir" -o Dir::State::lists="$dir/lists" -o Dir::State::status="$dir/status" \
		-o Dir::State::extended_states="$dir/extended_states" \
		-o Dir::Cache="$dir/cache" -o Dir::Cache::archives="$dir/cache/archives" \
		-o APT::Architecture="$arch" -o APT::Architectures="$arch" -o APT::Sandbox::User=root \
		-o APT::Install-Recommends=false -o APT::Install-Suggests=false \
		-o APT::Update::Error-Mode=any -o Acquire::Languages=none -o Acquire::Retries=3
}

# mirrors: the candidates for a Debian mirror, from this machine's apt configuration.
mirrors() {
	if [[ -n ${HEAPTAP_DEBIAN_MIRROR-} ]]; then
		echo "$HEAPTAP_DEBIAN_MIRROR"
		return
	fi
	apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | sed 's|/*$||' | awk '!seen[$0]++'
}

# lists NAME SUITE deb|deb-src: bring the suite's lists of packages or of sources, from the first mirror that has them.
lists() {
	local suite=$2 dir=$roots/apt/$1 mirror log
	mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial"
	: >"$dir/status"
	log=$(mktemp)
	for mirror in $(mirrors); do
		echo "$3 [signed-by=$keyring] $mirror $suite main" >"$dir/sources.list"
		if private "$1" apt-get update >>"$log" 2>&1; then
			rm -f "$log"
			return
		fi
	done
	cat "$log" >&2
	rm -f "$log"
	die "no Debian mirror with $suite in this machine's apt configuration; name one with HEAPTAP_DEBIAN_MIRROR=URL"
}
