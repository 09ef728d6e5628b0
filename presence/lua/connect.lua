-- A new connection of a session: give it the next number, tell the older one, and say what the session holds.
-- Runs in the user's partition.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 user, 2 session, 3 node, 4 end of the token (unix ms), 5 life of the record in ms, 6 bus,
--       7 life of the user's list in ms, 8 streaming (0/1), 9 number that the caller has already ('' none)
-- Returns: {number, the one up to which a back end ended it or 0, epoch and seq of the user's mailbox,
--          field, value, … of the record's channels} or {'replaced'}

local user, id, bus = ARGV[1], ARGV[2], ARGV[6]
local record, sessions = base .. 'session:' .. user .. SEP .. id, base .. 'user:' .. user
local old = tonumber(redis.call('HGET', record, 'number') or 0)
if ARGV[9] ~= '' and old > tonumber(ARGV[9]) then -- guard: order of connection numbers
  return {'replaced'}
end
local number = int(math.max(old + 1, now_us)) -- never restarts, whatever became of the record
redis.call('HSET', record, 'number', number, 'node', ARGV[3], 'token', ARGV[4], 'streaming', ARGV[8])
redis.call('PEXPIRE', record, math.max(tonumber(ARGV[5]), redis.call('PTTL', record)))

-- Lapsed sessions of this user are dropped here, the oldest first, but for the newest: it tells `last_seen`.
local listed = redis.call('ZRANGE', sessions, 0, 199)
for at, other in ipairs(listed) do
  if at < redis.call('ZCARD', sessions) and redis.call('EXISTS', base .. 'session:' .. user .. SEP .. other) == 0 then
    redis.call('ZREM', sessions, other)
  end
end
redis.call('ZADD', sessions, int(now), id)
redis.call('ZREMRANGEBYRANK', sessions, 0, -1001)
redis.call('PEXPIRE', sessions, ARGV[7])
tell(bus, {'replaced', user, id, number})

local inbox = redis.call('HMGET', base .. 'meta:@inbox:' .. user, 'epoch', 'seq') -- it lies in the user's partition
local reply = {number, redis.call('HGET', record, 'kicked') or '0', inbox[1] or '', inbox[2] or '0'}
local fields = redis.call('HGETALL', record)
for at = 1, #fields, 2 do
  if string.sub(fields[at], 1, 2) == 'c:' and tonumber(split(fields[at + 1])[3]) >= now then
    reply[#reply + 1] = string.sub(fields[at], 3)
    reply[#reply + 1] = fields[at + 1]
  end
end
return reply
