-- Forget what is kept of a user's ended presences. What waits in queues stays.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 user, 2 whether the caller can reach the archive (0/1)
-- Returns: {'ok', how many keys and entries went, a generation that only later presences exceed}
--          or {'archive'}: there is one, and who cannot reach it must not say that the user is forgotten

local user, gone = ARGV[1], 0
if ARGV[2] == '0' and redis.call('HEXISTS', base .. 'queues', 'archive') == 1 then
  return {'archive'}
end
local head = user .. SEP
for _, row in ipairs(redis.call('ZRANGEBYLEX', base .. 'unarchived', '[' .. head, '(' .. head .. '\255')) do
  gone = gone + redis.call('ZREM', base .. 'unarchived', row)
end
local lasts = base .. 'lasts:' .. user
for _, channel in ipairs(redis.call('ZRANGE', lasts, 0, -1)) do
  gone = gone + redis.call('DEL', base .. 'last:' .. channel .. SEP .. user)
end
redis.call('DEL', lasts)
return {'ok', gone, int(math.max(now_us, generation_given()))}
