#!/usr/bin/env bash
# A Ray cluster of machines at hand, with a token.
#
#   clusters/local.sh head [OPTION...]          this machine is the head, and works too
#   clusters/local.sh join HOST:6379 [OPTION...]  on another machine: join that head
#   clusters/local.sh stop                      end Ray on this machine
#
# OPTION: of `ray start`, for example --num-gpus=2, --labels=ray.io/market-type=spot, --node-ip-address=10.0.0.5.
# A worker needs the head's ~/.ray/auth_token (copy it over SSH), the same Ray, Python and packages, and the same files
# at the same places, or an `output` and inputs that are URIs. The token and the data travel unencrypted: use a network
# that is yours, or a tunnel.
set -euo pipefail

bin=$(dirname "$(readlink -f "$0")")/../.venv/bin
[ ! -d "$bin" ] || PATH="$bin:$PATH"
export RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0
token=${RAY_AUTH_TOKEN_PATH:-$HOME/.ray/auth_token}

usage() {
  sed -n '4,6s/^# *//p' "$0" >&2
  exit 2
}

case ${1:-} in
  head)
    shift
    [ -s "$token" ] || ray get-auth-token --generate > /dev/null
    chmod 600 "$token"
    ulimit -n "$(ulimit -H -n)"
    ray start --head --port=6379 --dashboard-host=127.0.0.1 "$@"
    ;;
  join)
    [ $# -ge 2 ] || usage
    head=$2
    shift 2
    if [ ! -s "$token" ]; then
      echo "no token at $token: copy it from the head, for example scp ${head%:*}:.ray/auth_token ~/.ray/" >&2
      exit 2
    fi
    ulimit -n "$(ulimit -H -n)"
    ray start --address="$head" "$@"
    ;;
  stop) ray stop ;;
  *) usage ;;
esac
