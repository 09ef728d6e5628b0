-- Hand out entries to a consumer: first those whose lease has ended, then what was given back, then new ones.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 group, 2 consumer, 3 count, 4 lease_ms, 5 most dead letters, 6 most bytes (but at least one entry)
-- Returns: {'none'} (no such queue) or
--          {'ok', more may wait 0/1, dead letters made, for each entry: source and id, deliveries, its fields}

local READ_AT_ONCE = 2000 -- of entries that the queue does not want
local CLOCK_MS = 500      -- a step back of the clock that is one

local group, consumer, count, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local queue, leases = queue_of(group), base .. 'lease:' .. group
if not queue then
  return {'none'}
end
redis.call('DEL', KEYS[2]) -- a write that is never refused, and so the others are not: work must go on without memory

-- The clock stepped back: leases would last longer by that much.
local there = base .. 'there:' .. group
local latest = tonumber(redis.call('ZREVRANGE', there, 0, 0, 'WITHSCORES')[2] or 0)
if latest > now + CLOCK_MS then
  for _, entry in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
    redis.call('ZINCRBY', leases, int(now - latest), entry)
  end
  redis.call('DEL', there)
end
redis.call('ZADD', there, int(now), consumer)

local taken, buried, room = {}, 0, tonumber(ARGV[6])
local function give(source, id, deliveries, fields)
  redis.call('ZADD', leases, int(now + lease_ms), source .. id)
  room = room - size_of(fields)
  taken[#taken + 1] = {source .. id, deliveries, fields}
end

-- An entry whose lease has ended: again to somebody, or, delivered often enough, to the dead letters.
local function again(source, id)
  local stream = stream_of(group, source)
  local held = redis.call('XPENDING', stream, group, id, id, 1)[1]
  local row = held and redis.call('XRANGE', stream, id, id)[1]
  if not held then
    redis.call('ZREM', leases, source .. id)
  elseif not row then
    forget(group, source, id)
    lose(group, 1)
  elseif held[4] >= queue.deliveries then
    bury(group, source, id, held[4], row[2], tonumber(ARGV[5]))
    buried = buried + 1
  else
    redis.call('XCLAIM', stream, group, consumer, '0', id)
    give(source, id, held[4] + 1, row[2])
  end
end

for _, member in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', int(now), 'LIMIT', '0', count)) do
  if room <= 0 then
    break
  end
  again(string.sub(member, 1, 1), string.sub(member, 2))
end

local read = 0
local function read_new(source)
  local stream = stream_of(group, source)
  while #taken < count and room > 0 and read < READ_AT_ONCE do
    local most = fitting(count - #taken, room)
    local reply = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', most, 'STREAMS', stream, '>')
    if not reply or #reply == 0 then
      return
    end
    for _, row in ipairs(reply[1][2]) do
      read = read + 1
      if source == 'a' or wants(queue, row[2]) then
        give(source, row[1], 1, row[2])
      else
        redis.call('XACK', stream, group, row[1])
        let_go(group, row[2])
      end
    end
  end
end

if redis.call('EXISTS', base .. 'again:' .. group) == 1 then
  read_new('a')
end
read_new('f')

local more = (#taken >= count or room <= 0 or read >= READ_AT_ONCE) and 1 or 0
local reply = {'ok', more, buried}
for _, entry in ipairs(taken) do
  for at = 1, 3 do
    reply[#reply + 1] = entry[at]
  end
end
return reply
