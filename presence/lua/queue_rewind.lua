-- Move a queue back to an entry of the feed, so that it gets again what came after it, as far as the feed has it still.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 group, 2 id of the entry
-- Returns: {'none'} (no such queue) or {'ok', whether it had read further 0/1}

local group, feed, leases = ARGV[1], base .. 'feed', base .. 'lease:' .. ARGV[1]
if redis.call('HEXISTS', base .. 'queues', group) == 0 then
  return {'none'}
end
for _, other in ipairs(groups_of(feed)) do
  if other.name == group and is_after(other.read, ARGV[2]) then
    redis.call('XGROUP', 'SETID', feed, group, ARGV[2])
    while true do -- what is held of it will be read again: whoever holds it learns that it does not any more
      local held = redis.call('XPENDING', feed, group, next_id(ARGV[2]), '+', 100)
      if #held == 0 then
        return {'ok', 1}
      end
      for _, row in ipairs(held) do
        redis.call('XACK', feed, group, row[1])
        redis.call('ZREM', leases, 'f' .. row[1])
      end
    end
  end
end
return {'ok', 0}
