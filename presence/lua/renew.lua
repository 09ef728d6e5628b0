-- Keep the records of sessions alive that a back end's heartbeats keep alive, once per ttl. Runs in the users'
-- partition.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 ttl_ms where none is known, 2 least life of a record in ms, 3 life of a user's list in ms,
--       then for each session 4 user, 5 session, 6 channel
-- Returns: {'ok', records written}

local written = 0
for at = 4, #ARGV, 3 do
  local user, id, field = ARGV[at], ARGV[at + 1], 'c:' .. ARGV[at + 2]
  local record = base .. 'session:' .. user .. SEP .. id
  local row = redis.call('HGET', record, field)
  local part = row and split(row) or {ARGV[1], '0', '0'}
  local ttl = math.max(tonumber(part[1]), 1000)
  local life = math.max(tonumber(ARGV[2]), 3 * ttl)
  if tonumber(part[3]) < now + life - ttl then
    redis.call('HSET', record, field, int(ttl) .. SEP .. '0' .. SEP .. int(now + life))
    redis.call('PEXPIRE', record, math.max(life, redis.call('PTTL', record)))
    redis.call('ZADD', base .. 'user:' .. user, int(now), id)
    redis.call('PEXPIRE', base .. 'user:' .. user, ARGV[3])
    written = written + 1
  end
end
return {'ok', written}
