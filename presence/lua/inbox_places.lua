-- The positions that are kept for a user: list them, add or drop one, or tell whether there is one. Runs in the user's partition.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 what (list, put, drop, has), 2 user, 3 channel, 4 position, 5 how many there may be
-- Returns: {'settling'}, {'full'} or
--          list {'ok', channel, position, …}
--          put  {'ok', added 0/1}: one that is there stays
--          drop {'ok', dropped 0/1}
--          has  {'ok', 0/1}

local what, channel, subs = ARGV[1], ARGV[3], base .. 'subs:' .. ARGV[2]
if what == 'list' then
  if not readable() then
    return {'settling'}
  end
  local rows = redis.call('HGETALL', subs)
  table.insert(rows, 1, 'ok')
  return rows
end
if what == 'drop' then
  return {'ok', redis.call('HDEL', subs, channel)}
end
local there = redis.call('HEXISTS', subs, channel)
if what == 'has' then
  return {'ok', there}
end
if there == 1 then
  return {'ok', 0}
end
if redis.call('HLEN', subs) - redis.call('HEXISTS', subs, '@inbox') >= tonumber(ARGV[5]) then
  return {'full'}
end
return {'ok', redis.call('HSET', subs, channel, ARGV[4])}
