-- Put before the scripts that make a channel keep its events for a user.

-- From now on nothing is forgotten before its time; returns where the channel stands, as a position.
local function keep_for(channel, user, keep)
  local meta = base .. 'meta:' .. channel
  redis.call('SADD', base .. 'subscribers:' .. channel, user)
  local epoch, seq = position(channel, keep, false)
  local saved = redis.call('HMGET', meta, 'base', 'born')
  local born = saved[2] or epoch
  redis.call('HSET', meta, 'keep', keep, 'born', born)
  redis.call('PERSIST', meta)
  return table.concat({epoch, int(seq), int(tonumber(saved[1] or 0) + seq), born}, SEP)
end
