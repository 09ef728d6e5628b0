-- What a consumer says of entries that it holds: done, take it back, or I need longer.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 group, 2 consumer, 3 what (ack, release, extend), 4 lease_ms (of extend),
--       then for each entry 5 source and id
-- Returns: {'none'} (no such queue) or {'ok', for each entry whether the consumer held it 0/1}

local group, consumer, what, leases = ARGV[1], ARGV[2], ARGV[3], base .. 'lease:' .. ARGV[1]
if redis.call('HEXISTS', base .. 'queues', group) == 0 then
  return {'none'}
end
redis.call('DEL', KEYS[2]) -- a write that is never refused, and so the others are not: leases are kept without memory
local reply = {'ok'}
for at = 5, #ARGV do
  local source, id = string.sub(ARGV[at], 1, 1), string.sub(ARGV[at], 2)
  local stream = stream_of(group, source)
  local held = redis.call('ZSCORE', leases, ARGV[at]) and redis.call('XPENDING', stream, group, id, id, 1, consumer)[1]
  if held and what == 'ack' then
    for _, row in ipairs(group == 'archive' and redis.call('XRANGE', stream, id, id) or {}) do
      let_go(group, row[2])
    end
    redis.call('XACK', stream, group, id)
    redis.call('ZREM', leases, ARGV[at])
    if source == 'a' then
      redis.call('XDEL', stream, id)
    end
  elseif held and what == 'extend' then
    redis.call('ZADD', leases, int(now + tonumber(ARGV[4])), ARGV[at])
  elseif held then -- to nobody, and due: the next who takes gets it
    redis.call('ZADD', leases, int(now), ARGV[at])
    redis.call('XCLAIM', stream, group, SEP, '0', id, 'JUSTID')
  end
  reply[#reply + 1] = held and 1 or 0
end
return reply
