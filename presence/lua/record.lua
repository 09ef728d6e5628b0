-- Note in the session's record which channels it enters or has left, and keep the record alive. It is written
-- before a join and only marked after a leave: it may name too much, never too little. Runs in the user's partition.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 user, 2 session, 3 number ('' whoever owns it), 4 node, 5 end of the token (unix ms, '' keep),
--       6 life of the record in ms, 7 life of the user's list in ms, 8 max channels ('' no limit),
--       9 over a leave (0/1), then for each channel 10 its name, 11 its ttl_ms, 12 left 0/1
-- Returns: {'ok'}, {'replaced'} or {'channels'}
-- A row is ttl_ms SEP left SEP end: a channel that is not written again until its end is forgotten.

local MOST_LEFT = 200        -- channels whose leave is remembered; NEXT remembers it, too
local LEFT_MS = 600000
local MOST_SESSIONS = 1000   -- of a user, in the list that leads to them

local user, id = ARGV[1], ARGV[2]
local record, sessions = base .. 'session:' .. user .. SEP .. id, base .. 'user:' .. user
local old = tonumber(redis.call('HGET', record, 'number') or 0)
local number = ARGV[3] ~= '' and tonumber(ARGV[3]) or math.max(old, 1)
if old > number then -- guard: order of connection numbers
  return {'replaced'}
end

local held, lefts = 0, 0
local known = redis.call('HGETALL', record)
for at = 1, #known, 2 do
  if string.sub(known[at], 1, 2) == 'c:' then
    local part = split(known[at + 1])
    lefts = lefts + tonumber(part[2])
    if tonumber(part[3]) < now or (part[2] == '1' and lefts > MOST_LEFT) then
      redis.call('HDEL', record, known[at])
    elseif part[2] == '0' and known[at] ~= 'c:' .. (ARGV[10] or '') then
      held = held + 1
    end
  end
end
if ARGV[8] ~= '' and held >= tonumber(ARGV[8]) then
  return {'channels'}
end

redis.call('HSET', record, 'number', int(number), 'node', ARGV[4])
if ARGV[5] ~= '' then
  redis.call('HSET', record, 'token', ARGV[5])
end
local life = tonumber(ARGV[6])
for at = 10, #ARGV, 3 do
  local field, left = 'c:' .. ARGV[at], ARGV[at + 2]
  local row = redis.call('HGET', record, field)
  -- Only an entry takes the mark of a leave away: who renews or goes on may have read the record before that leave.
  if left == '1' or ARGV[9] == '1' or not row or split(row)[2] == '0' then
    local gone = int(now + (left == '1' and math.min(life, LEFT_MS) or life))
    redis.call('HSET', record, field, ARGV[at + 1] .. SEP .. left .. SEP .. gone)
  end
end
redis.call('PEXPIRE', record, math.max(tonumber(ARGV[6]), redis.call('PTTL', record)))
redis.call('ZADD', sessions, int(now), id)
redis.call('ZREMRANGEBYRANK', sessions, 0, -MOST_SESSIONS - 1)
redis.call('PEXPIRE', sessions, ARGV[7])
return {'ok'}
