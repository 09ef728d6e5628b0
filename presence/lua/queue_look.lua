-- How a queue stands in this partition.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 group, 2 most unread entries that are looked at one by one, 3 ms within which a consumer counts as there,
--       4 most bytes of those entries
-- Returns: {'settling'}, {'none'} (no such queue) or
--          {'ok', waiting, in flight, age in ms of the oldest entry that is not acknowledged or -1, dead, lost,
--           max deliveries, types, pattern, then the names of its consumers: who asked lately, or holds something}

local group, leases, feed = ARGV[1], base .. 'lease:' .. ARGV[1], base .. 'feed'
local queue = queue_of(group)
if not readable() then
  return {'settling'}
end
if not queue then
  return {'none'}
end

local oldest = nil
local function meet(id)
  local ms = tonumber(string.match(id, '^%d+'))
  oldest = oldest and math.min(oldest, ms) or ms
end

local waiting, in_flight = 0, redis.call('ZCOUNT', leases, '(' .. int(now), '+inf')
waiting = redis.call('ZCARD', leases) - in_flight

local consumers = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', base .. 'there:' .. group, int(now - tonumber(ARGV[3])), '+inf')) do
  consumers[name] = true
end
local function meet_all(source)
  local stream = stream_of(group, source)
  for _, other in ipairs(groups_of(stream)) do
    if other.name == group then
      local pending = redis.call('XPENDING', stream, group)
      if pending[1] > 0 then
        meet(pending[2])
      end
      local most, room, looked, found = tonumber(ARGV[2]), tonumber(ARGV[4]), 0, 0
      local from, ended = '(' .. other.read, false
      while not ended and looked < most and room > 0 do
        local count = fitting(most - looked, room)
        local rows = redis.call('XRANGE', stream, from, '+', 'COUNT', count)
        for _, row in ipairs(rows) do
          room = room - size_of(row[2])
          if source == 'a' or wants(queue, row[2]) then
            found = found + 1
            meet(row[1])
          end
          from = '(' .. row[1]
        end
        looked, ended = looked + #rows, #rows < count
      end
      waiting = waiting + found
      if not ended then -- a very long queue: of the rest it wants as much as of these, most likely
        local rest = math.max(0, other.behind - pending[1] - looked)
        waiting = waiting + math.floor(rest * found / looked + 0.5)
      end
      for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
        if field_of(flat, 'name') ~= SEP and field_of(flat, 'pending') > 0 then
          consumers[field_of(flat, 'name')] = true
        end
      end
    end
  end
end
meet_all('f')
meet_all('a')

local reply = {
  'ok', waiting, in_flight, oldest and int(math.max(0, now - oldest)) or '-1', redis.call('XLEN', base .. 'dead:' .. group),
  tonumber(redis.call('HGET', base .. 'lost', group) or 0), queue.deliveries, queue.types, queue.pattern,
}
for name in pairs(consumers) do
  reply[#reply + 1] = name
end
return reply
