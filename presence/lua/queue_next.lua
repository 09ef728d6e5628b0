-- Hand out entries to the only consumer of a queue, in their order: those it is to have again, then new ones.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 group, 2 consumer, 3 count of new ones, 4 lease_ms, 5 most bytes (but at least one entry),
--       6 behind which entry of `again` it is to have again what is out, whoever held it ('-': all, '': nothing),
--       7 the same of the feed
-- Returns: {'none'} (no such queue) or {'ok', more may wait 0/1, more is out 0/1, for each entry: source and id, its fields}

local READ_AT_ONCE = 2000 -- of entries that the queue does not want
local AGAIN_AT_ONCE = 500

local group, consumer, count, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local room, behind = tonumber(ARGV[5]), {a = ARGV[6], f = ARGV[7]}
local queue, leases = queue_of(group), base .. 'lease:' .. group
if not queue then
  return {'none'}
end
redis.call('DEL', KEYS[2]) -- a write that is never refused, and so the others are not: work must go on without memory
redis.call('ZADD', base .. 'there:' .. group, int(now), consumer)

local reply = {'ok', 0, 0}
local function give(source, id, fields)
  redis.call('ZADD', leases, int(now + lease_ms), source .. id)
  room = room - size_of(fields)
  reply[#reply + 1] = source .. id
  reply[#reply + 1] = fields
end

-- Whose it was does not matter: there is one consumer, and from now on it is this one. Whether that was all.
local function give_again(source)
  local stream = stream_of(group, source)
  local from = behind[source] == '-' and '-' or next_id(behind[source])
  local out = redis.call('XPENDING', stream, group, from, '+', AGAIN_AT_ONCE)
  for _, held in ipairs(out) do
    if room <= 0 then
      return false
    end
    local row = redis.call('XRANGE', stream, held[1], held[1])[1]
    if row then
      redis.call('XCLAIM', stream, group, consumer, '0', held[1], 'JUSTID')
      give(source, held[1], row[2])
    else
      forget(group, source, held[1])
      lose(group, 1)
    end
  end
  return #out < AGAIN_AT_ONCE
end

local taken, read = 0, 0
local function give_new(source)
  local stream = stream_of(group, source)
  while taken < count and room > 0 and read < READ_AT_ONCE do
    local most = fitting(count - taken, room)
    local rows = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', most, 'STREAMS', stream, '>')
    if not rows or #rows == 0 then
      return
    end
    for _, row in ipairs(rows[1][2]) do
      read = read + 1
      if source == 'a' or wants(queue, row[2]) then
        taken = taken + 1
        give(source, row[1], row[2])
      else
        redis.call('XACK', stream, group, row[1])
      end
    end
  end
end

local sources = redis.call('EXISTS', base .. 'again:' .. group) == 1 and {'a', 'f'} or {'f'}
for _, source in ipairs(behind.f ~= '' and sources or {}) do
  if not give_again(source) then
    reply[2], reply[3] = 1, 1
    return reply
  end
end
for _, source in ipairs(sources) do
  give_new(source)
end
reply[2] = (taken >= count or room <= 0 or read >= READ_AT_ONCE) and 1 or 0
return reply
