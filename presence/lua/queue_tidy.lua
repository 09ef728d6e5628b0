-- Forget what every queue has acknowledged, and consumers that are long gone; say how the queues stand.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 entries that the feed keeps in any case, 2 most entries, 3 ms after which an idle consumer is forgotten
-- Returns: {'ok', entries in the feed, for each queue: name, max deliveries, types, pattern,
--           entries that it has not dealt with, age of the oldest of them in ms or -1, lost}

local feed, kept = base .. 'feed', tonumber(ARGV[1])

if redis.call('EXISTS', base .. 'queues') == 1 then
  redis.call('DEL', KEYS[2]) -- a write that is never refused, and so the others are not
end
for _ = 1, 20 do
  if give_way(tonumber(ARGV[2])) == 0 then
    break
  end
end

local function forget_consumers(stream, group)
  for _, flat in ipairs(redis.call('XINFO', 'CONSUMERS', stream, group)) do
    if field_of(flat, 'pending') == 0 and field_of(flat, 'idle') > tonumber(ARGV[3]) then
      redis.call('XGROUP', 'DELCONSUMER', stream, group, field_of(flat, 'name'))
    end
  end
end

-- The first entry that a group still needs, also one that is only yet to come.
local function first_needed(group)
  local pending = redis.call('XPENDING', feed, group.name)
  return pending[1] > 0 and pending[2] or next_id(group.read)
end

local needed = nil -- by anybody; without queues nobody needs any
local reply = {'ok', 0}
for _, group in ipairs(groups_of(feed)) do
  local queue, first = queue_of(group.name), first_needed(group)
  needed = needed and is_after(first, needed) and needed or first
  redis.call('ZREMRANGEBYSCORE', base .. 'there:' .. group.name, '-inf', int(now - tonumber(ARGV[3])))
  forget_consumers(feed, group.name)
  if redis.call('EXISTS', base .. 'again:' .. group.name) == 1 then
    forget_consumers(base .. 'again:' .. group.name, group.name)
  end
  if queue then
    local oldest = redis.call('XRANGE', feed, first, '+', 'COUNT', '1')[1]
    local age = oldest and int(math.max(0, now - tonumber(string.match(oldest[1], '^%d+')))) or '-1'
    local lost = redis.call('HGET', base .. 'lost', group.name) or '0'
    for _, value in ipairs({group.name, queue.deliveries, queue.types, queue.pattern, group.behind, age, lost}) do
      reply[#reply + 1] = value
    end
  end
end

local length = redis.call('XLEN', feed)
for turn = 1, 20 do
  local rows = length > kept and redis.call('XRANGE', feed, '-', '+', 'COUNT', math.min(length - kept, turn == 1 and 1 or 500)) or {}
  local last = nil
  for _, row in ipairs(rows) do
    if needed and not is_after(needed, row[1]) then
      break
    end
    last = row[1]
  end
  if not last then
    break
  end
  redis.call('XTRIM', feed, 'MINID', '=', next_id(last))
  length = redis.call('XLEN', feed)
end
reply[2] = length
return reply
