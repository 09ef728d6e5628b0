-- Forget when a user was last seen, and what their sessions' records say; runs in the user's partition.
-- The records stay for a while as marks: a node that did not hear of the end reads there that it must close.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 user, 2 how long marks stay in ms
-- Returns: {'ok', sessions that had a record}

local sessions, marks = base .. 'user:' .. ARGV[1], 0
for _, id in ipairs(redis.call('ZRANGE', sessions, 0, -1)) do
  local record = base .. 'session:' .. ARGV[1] .. SEP .. id
  for _, field in ipairs(redis.call('HKEYS', record)) do
    if field ~= 'number' and field ~= 'kicked' then
      redis.call('HDEL', record, field)
    end
  end
  marks = marks + redis.call('PEXPIRE', record, ARGV[2])
end
redis.call('DEL', sessions)
return {'ok', marks}
