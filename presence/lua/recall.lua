-- When users were last seen whose presence ended here, as far as the queue `archive` has not acknowledged it.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 the users
-- Returns: {'ok', for each user last_seen or ''} or {'settling'}

if not readable() then
  return {'settling'}
end
local reply = {'ok'}
for at = 1, #ARGV do
  local newest, head = 0, ARGV[at] .. SEP
  for _, row in ipairs(redis.call('ZRANGEBYLEX', base .. 'unarchived', '[' .. head, '(' .. head .. '\255')) do
    newest = math.max(newest, tonumber(split(row)[4]))
  end
  reply[#reply + 1] = newest > 0 and int(newest) or ''
end
return reply
