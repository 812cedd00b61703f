"""The scripts that Redis runs for leases: each is one message, whole or not at all.

Source: Redis "Scripting with Lua", "Programmability"; design section 5. Rules: docs/redis.md.

A bucket is a hash `<prefix>:r:<name>`: `l` level, `s` last refill (µs), `c` capacity, `i` interval,
and of each member (a gateway, and which of its tables): `a` allowance, `u` used, `d` end of its
lease (µs), `q` number of its last message. A budget is one a window, `<prefix>:b:<name>:<start>`,
with the same of each member, `u` being what it has spent, and `o`: what an operator has forgiven,
`x`: what members that were not heard of since Redis began empty had spent,
`w`: until when nothing is granted, so that they can say it.
Time is that of Redis.

Numbers are doubles: exact up to 2**53, and the configuration refuses more.
"""

from __future__ import annotations

from typing import Final

MAX_AMOUNT: Final = 2**53
STALE: Final = -(2**53)
"""Instead of an allowance: a later message of this member has come before."""

EPOCH: Final = """
local found = redis.call('GET', KEYS[1])
if not found then
  found = ARGV[1]
  redis.call('SET', KEYS[1], found)
end
return {tonumber(found)}
"""
"""A number that changes when Redis has lost what it knew."""

_MEMBERS: Final = """
local raw = redis.call('HGETALL', KEYS[1])
local head, members = {}, {}
for n = 1, #raw, 2 do
  local field, member = string.match(raw[n], '^(%a):(.+)$')
  if field then
    members[member] = members[member] or {}
    members[member][field] = tonumber(raw[n + 1])
  else
    head[raw[n]] = tonumber(raw[n + 1])
  end
end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local function text(number) return string.format('%.0f', number) end
local id, sequence = ARGV[1], tonumber(ARGV[2])
local allowance, used = tonumber(ARGV[3]), tonumber(ARGV[4])
local want, need, asked = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local ttl = tonumber(ARGV[8])
local me = members[id]
if me and me.q and sequence <= me.q then return {-9007199254740992, 0, 0, 0} end
local forget = {}
local function keep(key, member)
  redis.call('HSET', key, 'a:' .. id, text(member.a), 'u:' .. id, text(member.u),
    'd:' .. id, text(member.d), 'q:' .. id, text(member.q))
end
"""

# A member whose lease ended gives back what it had not taken, as far as it has said; its record
# stays for ten minutes, so that what it took since then is charged when it comes back.
RATE: Final = (
    _MEMBERS
    + """
local capacity, refill, interval = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local carries, hint = ARGV[12] == '1', tonumber(ARGV[13])
local level, since, is_new = head.l, head.s, head.l == nil
if is_new then
  level, since = hint >= 0 and hint or capacity, now
elseif head.c ~= capacity then
  level = level >= head.c and capacity or math.min(level, capacity)
end
if head.i and head.i ~= interval then since = now end
if now < since then since = now end
local fills = math.floor((now - since) / interval)
if fills > 0 then level, since = level + fills * refill, since + fills * interval end
local live, held = 1, 0
for name, member in pairs(members) do
  if name ~= id then
    if member.d < now then
      if member.a > member.u then
        level = level + member.a - member.u
        redis.call('HSET', KEYS[1], 'a:' .. name, text(member.u))
      end
      if member.d + 600000000 < now then forget[#forget + 1] = name end
    else
      live = live + 1
      held = held + math.max(member.a - member.u, 0)
    end
  end
end
if me or hint < 0 then
  -- A member that was never answered has granted itself what it has taken.
  local before = me and me.a or 0
  if me and me.d < now then
    level = level + math.max(me.a - me.u, 0)
    before = math.min(me.a, me.u)
  end
  local change = allowance - before
  local floor = math.min(level, 0)
  level = level - change
  if change > 0 then level = math.max(level, floor) end
elseif not is_new then
  level = level - math.max(allowance - used, 0)
end
if used > allowance then
  local debt = used - allowance
  if carries then level = level - debt
  else level = math.max(level - debt, math.min(level, 0)) end
  allowance, need, asked = used, need - debt, asked - debt
end
level = math.min(level, capacity - held - (allowance - used))
local grant = 0
if want > 0 then
  grant = math.min(want, math.floor(level / (2 * live)))
  if level >= need then grant = math.max(grant, math.min(level, asked)) end
  if grant < 0 then grant = 0 end
end
level, allowance = level - grant, allowance + grant
redis.call('HSET', KEYS[1], 'l', text(level), 's', string.format('%.17g', since),
  'c', text(capacity), 'i', string.format('%.17g', interval))
keep(KEYS[1], {a = allowance, u = used, d = now + ttl, q = sequence})
for _, name in ipairs(forget) do
  redis.call('HDEL', KEYS[1], 'a:' .. name, 'u:' .. name, 'd:' .. name, 'q:' .. name)
end
local full = math.max(capacity - level, 0) / refill * interval
local stays = math.ceil(math.min(full, 3e14) / 1000) + math.ceil(ttl / 1000) + 600000
redis.call('PEXPIRE', KEYS[1], text(stays))
return {allowance, level, math.ceil(since + interval - now), 0}
"""
)

RESET: Final = """
if redis.call('EXISTS', KEYS[1]) == 0 then return {0} end
local raw = redis.call('HGETALL', KEYS[1])
local values, held = {}, 0
for n = 1, #raw, 2 do values[raw[n]] = tonumber(raw[n + 1]) end
for field, allowance in pairs(values) do
  local member = string.match(field, '^a:(.+)$')
  if member then held = held + math.max(allowance - values['u:' .. member], 0) end
end
redis.call('HSET', KEYS[1], 'l', string.format('%.0f', values.c - held))
return {1}
"""
"""A bucket made full: what is granted and not yet taken is part of it."""

BUDGET: Final = (
    _MEMBERS
    + """
local amount, stays = tonumber(ARGV[9]), ARGV[10]
local live, committed, others = 1, 0, 0
for name, member in pairs(members) do
  if name ~= id then
    local holds = member.u
    if member.d >= now then
      live = live + 1
      holds = math.max(member.a, member.u)
    end
    committed = committed + holds
    others = others + member.u
  end
end
-- What this member knows that others have spent, of a Redis that knows nothing, until they say so.
local unheard = head.x or 0
if #raw == 0 then
  unheard = tonumber(ARGV[12])
elseif not me and unheard > 0 then
  unheard = math.max(unheard - used, 0)
end
local waits = (head.w or 0) > now
if #raw == 0 and ARGV[13] == '1' then
  waits = true
  redis.call('HSET', KEYS[1], 'w', text(now + 7000000))
end
if unheard ~= (head.x or 0) then redis.call('HSET', KEYS[1], 'x', text(unheard)) end
committed, others = committed + unheard, others + unheard
if me then used = math.max(used, me.u) end
if used > allowance then
  need, asked = need - used + allowance, asked - used + allowance
  allowance = used
end
local forgiven = head.o or 0
if ARGV[11] == '1' then
  forgiven = others + used
  redis.call('HSET', KEYS[1], 'o', text(forgiven))
end
others = math.max(others - forgiven, 0)
local left = amount + forgiven - committed - allowance
local grant = 0
if want > 0 and not waits then
  grant = math.min(want, math.floor(left / (2 * live)))
  if left >= need then grant = math.max(grant, math.min(left, asked)) end
  if grant < 0 then grant = 0 end
end
allowance, left = allowance + grant, left - grant
keep(KEYS[1], {a = allowance, u = used, d = now + ttl, q = sequence})
redis.call('PEXPIRE', KEYS[1], stays)
return {allowance, left, 0, others}
"""
)
