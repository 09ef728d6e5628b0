-- Forget what is kept of a user's ended presences. What waits in queues stays.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 user, then channels of this partition in which the archive knows the user 2 channel
-- Returns: {'ok', how many keys and entries went, the generation that a presence would get now}

local user, gone = ARGV[1], 0
local head = user .. SEP
for _, row in ipairs(redis.call('ZRANGEBYLEX', base .. 'unarchived', '[' .. head, '(' .. head .. '\255')) do
  redis.call('DEL', base .. 'last:' .. split(row)[2] .. SEP .. user)
  gone = gone + redis.call('ZREM', base .. 'unarchived', row)
end
for at = 2, #ARGV do
  gone = gone + redis.call('DEL', base .. 'last:' .. ARGV[at] .. SEP .. user)
end
return {'ok', gone, int(now_us)}
