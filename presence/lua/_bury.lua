-- Put before the scripts that take entries away from a queue for good.

local function lose(group, amount)
  redis.call('HINCRBY', base .. 'lost', group, amount)
end

local function forget(group, source, id)
  local stream = stream_of(group, source)
  redis.call('XACK', stream, group, id)
  redis.call('ZREM', base .. 'lease:' .. group, source .. id)
  if source == 'a' then
    redis.call('XDEL', stream, id)
  end
end

-- To the dead letters, of which the queue has no more than `most`.
local function bury(group, source, id, deliveries, fields, most)
  local dead = base .. 'dead:' .. group
  if redis.call('XLEN', dead) >= most then
    for _, row in ipairs(redis.call('XRANGE', dead, '-', '+', 'COUNT', '1')) do
      let_go(group, row[2])
    end
    redis.call('XTRIM', dead, 'MAXLEN', '=', most - 1)
    lose(group, 1)
  end
  fields[#fields + 1] = 'deliveries'
  fields[#fields + 1] = deliveries
  redis.call('XADD', dead, '*', unpack(fields))
  forget(group, source, id)
end
