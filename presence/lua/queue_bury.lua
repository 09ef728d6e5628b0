-- Set entries aside that a consumer holds and gives up: they become dead letters.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 group, 2 consumer, 3 deliveries, 4 most dead letters, then for each entry 5 source and id
-- Returns: {'none'} (no such queue) or {'ok', for each entry whether the consumer held it 0/1}

local group, consumer, leases = ARGV[1], ARGV[2], base .. 'lease:' .. ARGV[1]
if redis.call('HEXISTS', base .. 'queues', group) == 0 then
  return {'none'}
end
-- First of all: a Redis out of memory must say so before anything is changed.
redis.call('ZADD', base .. 'there:' .. group, int(now), consumer)

local reply = {'ok'}
for at = 5, #ARGV do
  local source, id = string.sub(ARGV[at], 1, 1), string.sub(ARGV[at], 2)
  local stream = stream_of(group, source)
  local held = redis.call('ZSCORE', leases, ARGV[at]) and redis.call('XPENDING', stream, group, id, id, 1, consumer)[1]
  local row = held and redis.call('XRANGE', stream, id, id)[1]
  if row then
    bury(group, source, id, ARGV[3], row[2], tonumber(ARGV[4]))
  elseif held then
    forget(group, source, id)
    lose(group, 1)
  end
  reply[#reply + 1] = held and 1 or 0
end
return reply
