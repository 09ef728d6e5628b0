-- Hand out entries to the only consumer of a queue, in their order: those it is to have again, then new ones.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 group, 2 consumer, 3 count, 4 lease_ms, 5 most entries to be had again, whoever held them (0: none)
-- Returns: {'none'} (no such queue) or {'ok', more may wait 0/1, for each entry: source and id, its fields}

local READ_AT_ONCE = 2000 -- of entries that the queue does not want

local group, consumer, count, lease_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local queue, leases = queue_of(group), base .. 'lease:' .. group
if not queue then
  return {'none'}
end
-- First of all: a Redis out of memory must say so before anything is changed.
redis.call('ZADD', base .. 'there:' .. group, int(now), consumer)

local reply, taken = {'ok', 0}, 0
local function give(source, id, fields)
  redis.call('ZADD', leases, int(now + lease_ms), source .. id)
  taken = taken + 1
  reply[#reply + 1] = source .. id
  reply[#reply + 1] = fields
end

-- Whose it was does not matter: there is one consumer, and from now on it is this one.
local function give_again(source)
  local stream = stream_of(group, source)
  for _, held in ipairs(redis.call('XPENDING', stream, group, '-', '+', ARGV[5])) do
    local row = redis.call('XRANGE', stream, held[1], held[1])[1]
    if row then
      redis.call('XCLAIM', stream, group, consumer, '0', held[1], 'JUSTID')
      give(source, held[1], row[2])
    else
      forget(group, source, held[1])
      lose(group, 1)
    end
  end
end

local read = 0
local function give_new(source)
  local stream = stream_of(group, source)
  while taken < count and read < READ_AT_ONCE do
    local rows = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', count - taken, 'STREAMS', stream, '>')
    if not rows or #rows == 0 then
      return
    end
    for _, row in ipairs(rows[1][2]) do
      read = read + 1
      if source == 'a' or wants(queue, row[2]) then
        give(source, row[1], row[2])
      else
        redis.call('XACK', stream, group, row[1])
      end
    end
  end
end

local sources = redis.call('EXISTS', base .. 'again:' .. group) == 1 and {'a', 'f'} or {'f'}
if ARGV[5] ~= '0' then
  for _, source in ipairs(sources) do
    give_again(source)
  end
end
for _, source in ipairs(sources) do
  give_new(source)
end
reply[2] = (taken >= count or read >= READ_AT_ONCE) and 1 or 0
return reply
