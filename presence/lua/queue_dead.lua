-- Dead letters of a queue in this partition: list them, or give some of them back to be tried again.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 group, 2 what (list, requeue), 3 after (an id, of list), 4 limit (of list),
--       then of requeue 5 source (always f) and id
-- Returns: {'none'} (no such queue),
--          list    {'ok', for each dead letter: id, its fields}
--          requeue {'ok', for each id whether it was there 0/1}

local group, dead, again = ARGV[1], base .. 'dead:' .. ARGV[1], base .. 'again:' .. ARGV[1]
if redis.call('HEXISTS', base .. 'queues', group) == 0 then
  return {'none'}
end
local reply = {'ok'}
if ARGV[2] == 'list' then
  local from = ARGV[3] == '' and '-' or '(' .. ARGV[3]
  for _, row in ipairs(redis.call('XRANGE', dead, from, '+', 'COUNT', ARGV[4])) do
    reply[#reply + 1] = row[1]
    reply[#reply + 1] = row[2]
  end
  return reply
end
if redis.call('EXISTS', again) == 0 then
  redis.call('XGROUP', 'CREATE', again, group, '0', 'MKSTREAM')
end
for at = 5, #ARGV do
  local id = string.sub(ARGV[at], 2)
  local row = redis.call('XRANGE', dead, id, id)[1]
  if row then
    redis.call('XADD', again, '*', unpack(row[2], 1, #row[2] - 2)) -- without the deliveries: it begins anew
    redis.call('XDEL', dead, id)
  end
  reply[#reply + 1] = row and 1 or 0
end
return reply
