-- Create a queue in this partition, or change what it wants. Where it begins is settled when it is created.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 group, 2 max deliveries, 3 types by comma ('' all), 4 channel pattern, 5 from (now, start), 6 max queues
-- Returns: {'ok', created 0/1} or {'queues'}

local group, queues = ARGV[1], base .. 'queues'
local known = redis.call('HEXISTS', queues, group) == 1
if not known and redis.call('HLEN', queues) >= tonumber(ARGV[6]) then
  return {'queues'}
end
redis.call('HSET', queues, group, table.concat({ARGV[2], ARGV[3], ARGV[4]}, SEP))
local there = false
for _, other in ipairs(groups_of(base .. 'feed')) do
  there = there or other.name == group
end
if not there then -- also where somebody deleted the feed
  redis.call('XGROUP', 'CREATE', base .. 'feed', group, (known or ARGV[5] == 'start') and '0' or '$', 'MKSTREAM')
end
return {'ok', known and 0 or 1}
