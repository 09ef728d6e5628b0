-- Forget a user's own mailbox, all positions that are kept for them, and which idempotency keys their messages had.
-- Runs in the user's partition.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 user, 2 their mailbox
-- Returns: {'ok'}

local mailbox = ARGV[2]
local onces = base .. 'onces:' .. mailbox
for _, once in ipairs(redis.call('ZRANGE', onces, 0, -1)) do
  redis.call('DEL', base .. 'once:' .. mailbox .. SEP .. once)
end
for _, log in ipairs(logs_of(mailbox)) do
  redis.call('DEL', log)
end
redis.call('DEL', base .. 'meta:' .. mailbox, onces, base .. 'subs:' .. ARGV[1])
return {'ok'}
