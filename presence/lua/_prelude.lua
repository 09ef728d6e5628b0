-- Put before every script: the clock, the shape of the stored rows, and the one way to announce a change.
-- Rows are texts whose parts are separated by \31, which no name and no compact JSON can contain.
-- Numbers travel as text through int(): Lua would print 14 digits of them.

local SEP = '\31'
local LOG_LENGTH = 1000        -- events of a channel that can be resumed
local TOMBSTONE_MS = 60000     -- how long a refresh is told that its session was ended on purpose
local SETTLE_MS = 2000         -- how long a partition that lost its data answers no reads

local base = string.sub(KEYS[1], 1, -6) -- KEYS[1] without 'guard'; KEYS[2] only makes a migrating slot say TRYAGAIN
local clock = redis.call('TIME')        -- read once: every decision of a script is made at one instant
local now_us = clock[1] * 1000000 + clock[2]
local now = math.floor(now_us / 1000)

local function int(number)
  return string.format('%.0f', number)
end

local function split(text)
  local parts, from = {}, 1
  while true do
    local at = string.find(text, SEP, from, true)
    if not at then
      parts[#parts + 1] = string.sub(text, from)
      return parts
    end
    parts[#parts + 1] = string.sub(text, from, at - 1)
    from = at + 1
  end
end

-- bus: the command and the name, 'PUBLISH name' or, where announcements stay within a shard, 'SPUBLISH name'
local function tell(bus, parts)
  local command, name = string.match(bus, '^(%u+) (.*)$')
  redis.call(command, name, table.concat(parts, SEP))
end

local function entry_of(channel, user, session)
  return channel .. SEP .. user .. SEP .. session
end

-- sessions:<ch>  field user SEP session -> ttl, number of the owning connection, closed at, holds, seen at
local function read_session(channel, field)
  local row = redis.call('HGET', base .. 'sessions:' .. channel, field)
  if not row then
    return nil
  end
  local part = split(row)
  return {
    ttl = tonumber(part[1]), number = tonumber(part[2]), closed = tonumber(part[3]),
    holds = tonumber(part[4]), seen = tonumber(part[5]),
  }
end

local function write_session(channel, field, session)
  redis.call('HSET', base .. 'sessions:' .. channel, field, table.concat({
    int(session.ttl), int(session.number), int(session.closed), int(session.holds), int(session.seen),
  }, SEP))
end

-- The deadline says when the last sign of life was, unless the client closed or a hold moved the deadline.
local function last_seen(session, deadline)
  if session.seen > 0 then
    return session.seen
  end
  if session.closed > 0 then
    return session.closed
  end
  return math.min(deadline - session.ttl, now)
end

-- A number as given by the caller, or, where none was, the owner's own. A closed owner is taken over by the very next
-- number: a connection that has got its own meanwhile, and is about to join with it, has a higher one.
local function acting_number(given, session)
  if given ~= '' then
    return tonumber(given)
  end
  if session.closed > 0 then
    return session.number + 1 -- guard: order of connection numbers
  end
  return session.number
end

-- alive:<entry> and due agree, always: both are written here.
local function keep_alive(entry, number, deadline)
  redis.call('SET', base .. 'alive:' .. entry, int(number), 'PXAT', int(deadline))
  redis.call('ZADD', base .. 'due', int(deadline), entry)
end

-- member:<ch>  user -> generation, since, ids of the live sessions by comma, user as JSON, info, state, and a 1 while
-- it is not known yet whether an earlier presence left a state behind (see promote.lua)
local function read_member(channel, user)
  local row = redis.call('HGET', base .. 'member:' .. channel, user)
  if not row then
    return nil
  end
  local part = split(row)
  local ids = {}
  for id in string.gmatch(part[3], '[^,]+') do
    ids[#ids + 1] = id
  end
  return {generation = part[1], since = part[2], ids = ids, json = part[4], info = part[5], state = part[6],
    unclaimed = part[7]}
end

local function write_member(channel, user, member)
  redis.call('HSET', base .. 'member:' .. channel, user, table.concat({
    member.generation, member.since, table.concat(member.ids, ','), member.json, member.info, member.state,
    member.unclaimed,
  }, SEP))
end

local function replication_id()
  local info = redis.pcall('INFO', 'replication') -- some access lists forbid it: then epochs follow the log alone
  if type(info) ~= 'string' then
    return ''
  end
  return string.match(info, 'master_replid:(%x+)') or ''
end

local function new_epoch()
  return string.format('%x', now_us)
end

local function settling(until_ms)
  local moment = tonumber(until_ms or 0)
  return moment > now and moment <= now + SETTLE_MS -- a mark further ahead is of another clock
end

-- The greatest generation that a presence got in this partition; the clock alone may go back, as after a failover.
local function generation_given()
  return tonumber(redis.call('HGET', KEYS[1], 'generation') or 0)
end

-- Reads must not show a roster that is still filling up again.
local function readable()
  local guard = redis.call('HMGET', KEYS[1], 'birth', 'settling')
  return guard[1] and not settling(guard[2])
end
