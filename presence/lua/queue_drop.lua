-- End a queue in this partition, with all that waits in it.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 group
-- Returns: {'ok', existed 0/1}

local group = ARGV[1]
for _, other in ipairs(groups_of(base .. 'feed')) do
  if other.name == group then
    redis.call('XGROUP', 'DESTROY', base .. 'feed', group)
  end
end
redis.call('UNLINK', base .. 'lease:' .. group, base .. 'dead:' .. group, base .. 'again:' .. group, base .. 'there:' .. group, base .. 'lead:' .. group)
redis.call('HDEL', base .. 'lost', group)
if group == 'archive' then
  redis.call('UNLINK', base .. 'unarchived')
end
return {'ok', redis.call('HDEL', base .. 'queues', group)}
