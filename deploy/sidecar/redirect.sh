#!/bin/sh
# Redirects a pod's TCP connections to its sidecar: `redirect.sh`, or `redirect.sh clean`.
#
# To be run in the pod's network namespace, with CAP_NET_ADMIN and CAP_NET_RAW, before anything else
# runs there (an init container). It may be run again: the rules are then the same. Where a rule
# cannot be made it fails, and with it the pod's start: traffic that is not captured would leave the
# pod in plaintext.
#
#   variable                 default             meaning
#   OUTBOUND_PORT            15001               config.istio.sidecar.outboundPort
#   INBOUND_PORT             15006               config.istio.sidecar.inboundPort
#   HBONE_PORT               15008               config.istio.sidecar.hbonePort; never redirected
#   PACKET_MARK              0x539               config.istio.sidecar.packetMark; 0: not by mark
#   SIDECAR_UID                                  user of the sidecar, where it cannot mark packets
#   EXCLUDE_INBOUND_PORTS    15020,15021         ports that are reached without the sidecar
#   EXCLUDE_OUTBOUND_PORTS                       ports that are called without it
#   EXCLUDE_OUTBOUND_CIDRS                       networks that are called without it
#   PROBE_SOURCE             169.254.7.127       where Istio's CNI lets the kubelet's probes come
#   PROBE_SOURCE6            fd16:9254:7127:1337:ffff:ffff:ffff:ffff                          from
#   PRESERVE_SOURCE          false               config.istio.sidecar.preserveSource
#   IPV6                     auto                auto: where the pod has it; true; false
#   IPTABLES, IP6TABLES      iptables, ip6tables e.g. iptables-legacy
#
# Lists are separated by commas. One of PACKET_MARK and SIDECAR_UID must be given.
set -eu

OUTBOUND_PORT=${OUTBOUND_PORT:-15001}
INBOUND_PORT=${INBOUND_PORT:-15006}
HBONE_PORT=${HBONE_PORT:-15008}
PACKET_MARK=${PACKET_MARK:-0x539}
SIDECAR_UID=${SIDECAR_UID:-}
EXCLUDE_INBOUND_PORTS=${EXCLUDE_INBOUND_PORTS-15020,15021}
EXCLUDE_OUTBOUND_PORTS=${EXCLUDE_OUTBOUND_PORTS:-}
EXCLUDE_OUTBOUND_CIDRS=${EXCLUDE_OUTBOUND_CIDRS:-}
PROBE_SOURCE=${PROBE_SOURCE-169.254.7.127}
PROBE_SOURCE6=${PROBE_SOURCE6-fd16:9254:7127:1337:ffff:ffff:ffff:ffff}
PRESERVE_SOURCE=${PRESERVE_SOURCE:-false}
IPV6=${IPV6:-auto}
IPTABLES=${IPTABLES:-iptables}
IP6TABLES=${IP6TABLES:-ip6tables}

IN=AGW_SIDECAR_IN
OUT=AGW_SIDECAR_OUT
MASK=0xfff
# On connections with a client's own address; their answers come back by the table below.
RETURN_MARK=0x111
TABLE=100
PREFERENCE=32764

fail() {
  echo "redirect.sh: $*" >&2
  exit 1
}

has_mark() { [ "$((PACKET_MARK))" -ne 0 ]; }

# Prints the rules of the nat table. $1: loopback network, $2: where probes come from, $3: which
# of EXCLUDE_OUTBOUND_CIDRS are of this family.
nat_rules() {
  echo '*nat'
  echo ":$IN - [0:0]"
  echo ":$OUT - [0:0]"
  # What the sidecar itself sends goes where it says.
  if has_mark; then
    echo "-A $OUT -m mark --mark $PACKET_MARK/$MASK -j RETURN"
    echo "-A $IN -m mark --mark $PACKET_MARK/$MASK -j RETURN"
  fi
  if [ "$PRESERVE_SOURCE" = true ]; then
    echo "-A $OUT -m mark --mark $RETURN_MARK/$MASK -j RETURN"
  fi
  if [ -n "$SIDECAR_UID" ]; then
    echo "-A $OUT -m owner --uid-owner $SIDECAR_UID -j RETURN"
  fi
  # A pod that calls itself needs no mesh.
  echo "-A $OUT -d $1 -j RETURN"
  echo "-A $OUT -o lo -j RETURN"
  echo "-A $IN -d $1 -j RETURN"
  echo "-A $IN -i lo -j RETURN"
  if [ -n "$2" ]; then
    echo "-A $OUT -d $2 -j RETURN"
    echo "-A $IN -s $2 -j RETURN"
  fi
  for port in $(listed "$EXCLUDE_OUTBOUND_PORTS"); do
    echo "-A $OUT -p tcp --dport $port -j RETURN"
  done
  for cidr in $3; do
    echo "-A $OUT -d $cidr -j RETURN"
  done
  echo "-A $IN -p tcp --dport $HBONE_PORT -j RETURN"
  for port in $(listed "$EXCLUDE_INBOUND_PORTS"); do
    echo "-A $IN -p tcp --dport $port -j RETURN"
  done
  echo "-A $OUT -p tcp -j REDIRECT --to-ports $OUTBOUND_PORT"
  echo "-A $IN -p tcp -j REDIRECT --to-ports $INBOUND_PORT"
  echo 'COMMIT'
}

# Prints the rules that let a client's own address be used towards the application.
mangle_rules() {
  echo '*mangle'
  echo ":$IN - [0:0]"
  echo ":$OUT - [0:0]"
  echo "-A $IN -m mark --mark $PACKET_MARK/$MASK -j CONNMARK --set-xmark $RETURN_MARK/$MASK"
  echo "-A $OUT -m connmark --mark $RETURN_MARK/$MASK -j CONNMARK --restore-mark --nfmask $MASK --ctmask $MASK"
  echo 'COMMIT'
}

listed() { echo "$1" | tr ',' ' '; }

# $1: iptables or ip6tables, $2: table.
jump() {
  "$1" -w 10 -t "$2" -C PREROUTING -p tcp -j "$IN" 2>/dev/null ||
    "$1" -w 10 -t "$2" -A PREROUTING -p tcp -j "$IN"
  "$1" -w 10 -t "$2" -C OUTPUT -p tcp -j "$OUT" 2>/dev/null ||
    "$1" -w 10 -t "$2" -A OUTPUT -p tcp -j "$OUT"
}

# $1: iptables or ip6tables. What is not there is not missed.
clean() {
  for table in nat mangle; do
    while "$1" -w 10 -t "$table" -D PREROUTING -p tcp -j "$IN" 2>/dev/null; do :; done
    while "$1" -w 10 -t "$table" -D OUTPUT -p tcp -j "$OUT" 2>/dev/null; do :; done
    for chain in "$IN" "$OUT"; do
      if "$1" -w 10 -t "$table" -F "$chain" 2>/dev/null; then
        "$1" -w 10 -t "$table" -X "$chain"
      fi
    done
  done
}

# $1: -4 or -6.
clean_routes() {
  while ip "$1" rule del fwmark "$RETURN_MARK/$MASK" lookup "$TABLE" 2>/dev/null; do :; done
  ip "$1" route flush table "$TABLE" 2>/dev/null || true
}

# $1: -4 or -6, $2: everything.
routes() {
  clean_routes "$1"
  ip "$1" rule add fwmark "$RETURN_MARK/$MASK" pref "$PREFERENCE" lookup "$TABLE"
  ip "$1" route add local "$2" dev lo table "$TABLE"
}

# $1: iptables or ip6tables, $2: -4 or -6, $3: loopback, $4: probes, $5: CIDRs, $6: everything.
apply() {
  command -v "$1" >/dev/null || fail "$1 is not installed"
  # The chains are filled in one step, before anything leads to them.
  nat_rules "$3" "$4" "$5" | "$1-restore" -w 10 --noflush || fail "$1: the rules were refused"
  if [ "$PRESERVE_SOURCE" = true ]; then
    mangle_rules | "$1-restore" -w 10 --noflush || fail "$1: the rules were refused"
    routes "$2" "$6"
    jump "$1" mangle
  fi
  jump "$1" nat
}

cidrs() {
  for cidr in $(listed "$EXCLUDE_OUTBOUND_CIDRS"); do
    case "$cidr" in
      *:*) [ "$1" = 6 ] && echo "$cidr" || true ;;
      *) [ "$1" = 4 ] && echo "$cidr" || true ;;
    esac
  done
}

uses_ipv6() {
  case "$IPV6" in
    true) return 0 ;;
    false) return 1 ;;
    auto) [ -n "$(cat /proc/net/if_inet6 2>/dev/null)" ] ;;
    *) fail "IPV6: expected auto, true or false" ;;
  esac
}

check() {
  for port in "$OUTBOUND_PORT" "$INBOUND_PORT" "$HBONE_PORT" $(listed "$EXCLUDE_INBOUND_PORTS") \
    $(listed "$EXCLUDE_OUTBOUND_PORTS"); do
    case "$port" in
      '' | *[!0-9]* | ??????*) fail "expected a port, not '$port'" ;;
    esac
  done
  case "$SIDECAR_UID" in *[!0-9]*) fail "SIDECAR_UID: expected a number" ;; esac
  case "$PRESERVE_SOURCE" in true | false) ;; *) fail "PRESERVE_SOURCE: expected true or false" ;; esac
  case "$PACKET_MARK" in
    0x | 0x*[!0-9a-fA-F]*) fail "PACKET_MARK: expected a number" ;;
    0x*) ;;
    '' | *[!0-9]*) fail "PACKET_MARK: expected a number" ;;
  esac
  if ! has_mark; then
    [ -n "$SIDECAR_UID" ] || fail "without PACKET_MARK, SIDECAR_UID must say whose traffic to let pass"
    [ "$PRESERVE_SOURCE" = false ] || fail "PRESERVE_SOURCE needs PACKET_MARK"
  fi
}

case "${1:-apply}" in
  apply)
    check
    apply "$IPTABLES" -4 127.0.0.0/8 "$PROBE_SOURCE" "$(cidrs 4)" 0.0.0.0/0
    if uses_ipv6; then
      apply "$IP6TABLES" -6 ::1/128 "$PROBE_SOURCE6" "$(cidrs 6)" ::/0
    fi
    ;;
  clean)
    for command in "$IPTABLES" "$IP6TABLES"; do
      if command -v "$command" >/dev/null; then clean "$command"; fi
    done
    if command -v ip >/dev/null; then
      clean_routes -4
      clean_routes -6
    fi
    ;;
  *)
    fail "expected apply or clean, not '$1'"
    ;;
esac
