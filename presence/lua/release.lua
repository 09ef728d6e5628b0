-- The newest connection of a session is over: a stream that it replaced may come back.
-- Runs in the user's partition.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 user, 2 session, 3 number
-- Returns: {'ok'}

local record = base .. 'session:' .. ARGV[1] .. SEP .. ARGV[2]
if redis.call('HGET', record, 'number') == ARGV[3] then
  redis.call('HSET', record, 'streaming', '0')
end
return {'ok'}
