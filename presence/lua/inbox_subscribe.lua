-- Begin or stop to keep a channel's events for a user; runs in the channel's partition.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 on (0/1), 2 channel, 3 user, 4 keep_ms, 5 history_ms
-- Returns: {'ok', where the channel stands, as a position}, or {'ok'} where it is over

local channel, user = ARGV[2], ARGV[3]
local meta, log, subscribers = base .. 'meta:' .. channel, base .. 'log:' .. channel, base .. 'subscribers:' .. channel
if ARGV[1] == '1' then
  return {'ok', keep_for(channel, user, ARGV[4])}
end

redis.call('SREM', subscribers, user)
if redis.call('EXISTS', subscribers) == 1 then
  return {'ok'}
end
local logs = logs_of(channel)
for at = 1, #logs - 1 do
  redis.call('DEL', logs[at])
end
redis.call('HDEL', meta, 'keep', 'past')
if redis.call('EXISTS', base .. 'roster:' .. channel) == 0 then
  redis.call('PEXPIRE', meta, ARGV[5])
  redis.call('PEXPIRE', log, ARGV[5])
end
return {'ok'}
